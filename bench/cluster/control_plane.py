"""etcd, the API server and the controllers: all that an API-only cluster has, and the head of a node's."""

import socket
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from certificates import Certificates
from state import AUDIT, CRDS, State
from supervisor import Supervisor

SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/24"


@dataclass(frozen=True)
class Endpoints:
    """Where the control plane listens."""

    address: str  # of the API server
    port: int
    etcd: int
    etcd_peer: int

    @classmethod
    def on_free_ports(cls) -> "Endpoints":
        sockets = [socket.socket() for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return cls("127.0.0.1", *ports)

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


class ControlPlane:
    def __init__(self, state: State, supervisor: Supervisor, endpoints: Endpoints, has_node: bool):
        self.state, self.supervisor, self.endpoints, self.has_node = state, supervisor, endpoints, has_node
        self.certificates = certificates = Certificates(state.directory / "certificates")
        certificates.signing_key("service-accounts")
        certificates.server(
            "apiserver",
            f"IP:{endpoints.address},IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,"
            "DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
        )
        self.admin = self.client("admin", "kubernetes-admin", "system:masters", state.kubeconfig)
        self._context = ssl.create_default_context(cafile=certificates.authority)

    def client(self, name: str, user: str, group: str = "", path: Path | None = None) -> Path:
        """A certificate for `user`, and the kubeconfig with it."""
        self.certificates.client(name, user, group)
        return self.certificates.kubeconfig(path or self.state.directory / f"{name}.kubeconfig", self.endpoints.url, name)

    def start(self) -> None:
        """Starts etcd and the API server; does not wait."""
        crt, key, at = self.certificates.crt, self.certificates.key, self.endpoints
        etcd, peer = (f"http://127.0.0.1:{port}" for port in (at.etcd, at.etcd_peer))
        self.supervisor.start(
            "etcd",
            *("etcd", "--data-dir", self.state.directory / "etcd", "--unsafe-no-fsync", "--logger=zap", "--log-level=warn"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )
        self.certificates.client("apiserver-to-kubelet", "windlass-bench:apiserver", "system:masters")
        self.supervisor.start(
            "kube-apiserver",
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--bind-address={'0.0.0.0' if self.has_node else at.address}",
            f"--advertise-address={at.address}",
            f"--endpoint-reconciler-type={'lease' if self.has_node else 'none'}",
            f"--secure-port={at.port}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={crt('apiserver')}",
            f"--tls-private-key-file={key('apiserver')}",
            f"--client-ca-file={self.certificates.authority}",
            "--authorization-mode=Node,RBAC",
            # The second is what clusters have that want an owner's finalizers granted to whoever makes it wait for what it owns.
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            f"--audit-policy-file={AUDIT}",
            f"--audit-log-path={self.state.requests}",
            "--audit-log-maxsize=32",  # MB
            "--audit-log-maxbackup=3",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={key('service-accounts')}",
            f"--service-account-signing-key-file={key('service-accounts')}",
            f"--kubelet-certificate-authority={self.certificates.authority}",
            f"--kubelet-client-certificate={crt('apiserver-to-kubelet')}",
            f"--kubelet-client-key={key('apiserver-to-kubelet')}",
            "--kubelet-preferred-address-types=InternalIP",
        )

    def finish(self) -> None:
        """Waits for the API, then starts the controllers and installs the snapshot resources."""
        self.supervisor.wait("the API server's readiness", self._is_ready, 60, "kube-apiserver")
        self.supervisor.start(
            "kube-controller-manager",
            "kube-controller-manager",
            f"--kubeconfig={self.client('controller-manager', 'system:kube-controller-manager')}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",  # its forty accounts are made one after the other
            "--kube-api-burst=500",
            "--use-service-account-credentials=true",
            f"--root-ca-file={self.certificates.authority}",
            f"--service-account-private-key-file={self.certificates.key('service-accounts')}",
            f"--cluster-signing-cert-file={self.certificates.authority}",
            f"--cluster-signing-key-file={self.certificates.key('ca')}",
            f"--enable-hostpath-provisioner={str(self.has_node).lower()}",
        )
        self.kubectl("apply", "--server-side", "-f", CRDS)
        self.kubectl("wait", "--for=condition=Established", "--timeout=20s", "-f", CRDS)
        self.supervisor.wait("the default service account", self._has_default_account, 30, "kube-controller-manager")

    def kubectl(self, *arguments: object) -> str:
        return self.supervisor.run("kubectl", f"--kubeconfig={self.admin}", *arguments)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoints.url + "/readyz", timeout=2, context=self._context) as response:
                return response.status == 200
        except OSError:
            return False

    def _has_default_account(self) -> bool:
        return bool(self.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name").strip())
