"""One authority, and a certificate for each who speaks to the API server or is spoken to."""

import subprocess
from base64 import b64encode
from pathlib import Path


class Certificates:
    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(mode=0o700)
        self.authority = directory / "ca.crt"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
            *("-subj", "/CN=windlass-bench", "-keyout", self.key("ca"), "-out", self.authority),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
        )

    def crt(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def client(self, name: str, user: str, group: str = "") -> None:
        self._sign(name, f"/O={group}/CN={user}" if group else f"/CN={user}", "extendedKeyUsage=clientAuth")

    def server(self, name: str, alternatives: str) -> None:
        self._sign(name, f"/CN={name}", "extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}")

    def signing_key(self, name: str) -> None:
        self._openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.key(name))

    def kubeconfig(self, path: Path, server: str, name: str) -> Path:
        authority, certificate, key = (b64encode(file.read_bytes()).decode() for file in (self.authority, self.crt(name), self.key(name)))
        path.touch(mode=0o600)
        path.write_text(
            f"""apiVersion: v1
kind: Config
clusters:
  - {{name: bench, cluster: {{server: "{server}", certificate-authority-data: {authority}}}}}
users:
  - {{name: {name}, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}
contexts:
  - {{name: bench, context: {{cluster: bench, user: {name}}}}}
current-context: bench
"""
        )
        return path

    def _sign(self, name: str, subject: str, *extensions: str) -> None:
        added = [word for extension in ("basicConstraints=critical,CA:FALSE", *extensions) for word in ("-addext", extension)]
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
            *("-CA", self.authority, "-CAkey", self.key("ca"), "-subj", subject),
            *("-keyout", self.key(name), "-out", self.crt(name), *added),
        )

    def _openssl(self, *arguments: object) -> None:
        ended = subprocess.run(["openssl", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ended.returncode:
            raise RuntimeError(f"openssl {arguments[0]} ended with {ended.returncode}:\n{ended.stdout}")
