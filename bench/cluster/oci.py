"""Writes container images: an OCI archive of uncompressed layers, as `ctr images import` takes it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

LAYER = "application/vnd.oci.image.layer.v1.tar"


def write_image(archive: Path, name: str, layers: list[Path], config: dict) -> str:
    """Writes the image `name` (a full reference with its tag) and returns its manifest's digest.

    `config` is what the image specification calls so: Env, Entrypoint, Cmd, User, WorkingDir, StopSignal.
    """
    descriptors = [_descriptor(LAYER, layer) for layer in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in descriptors]},
    }
    blobs = [json.dumps(image, sort_keys=True).encode()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _described("application/vnd.oci.image.config.v1+json", blobs[0]),
        "layers": descriptors,
    }
    blobs.append(json.dumps(manifest, sort_keys=True).encode())
    index = {
        "schemaVersion": 2,
        "manifests": [{**_described(manifest["mediaType"], blobs[1]), "annotations": {"io.containerd.image.name": name}}],
    }
    unfinished = archive.with_suffix(".part")
    with tarfile.open(unfinished, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for blob in blobs:
            _add(tar, _blob_path(_digest(blob)), blob)
        for layer, descriptor in zip(layers, descriptors):
            tar.add(layer, _blob_path(descriptor["digest"]), filter=_plain)
    unfinished.rename(archive)
    return index["manifests"][0]["digest"]


def read_name_and_digest(archive: Path) -> tuple[str, str]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name == "index.json":
                found = json.load(tar.extractfile(member))["manifests"][0]
                return found["annotations"]["io.containerd.image.name"], found["digest"]
    raise ValueError(f"{archive} is not an OCI archive: it has no index.json")


def write_layer(layer: Path, files: dict[str, tuple[Path | str | None, int, int]]) -> None:
    """Writes a layer: path in the image -> (content, mode, owner). Content is a file here, a link's target, or None: a directory."""
    with tarfile.open(layer, "w") as tar:
        for path, (source, mode, owner) in sorted(files.items()):
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode, member.uid, member.gid = mode, owner, owner
            if source is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif isinstance(source, str):
                member.type, member.linkname = tarfile.SYMTYPE, source
                tar.addfile(member)
            else:
                member.size = source.stat().st_size
                with source.open("rb") as content:
                    tar.addfile(member, content)


def _descriptor(media_type: str, path: Path) -> dict:
    with path.open("rb") as content:
        digest = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": path.stat().st_size}


def _described(media_type: str, blob: bytes) -> dict:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
