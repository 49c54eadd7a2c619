"""What a node touches outside of its own namespaces, and how it is taken away again.

The cable's host end and the routes through it go with the node. Control groups and two empty mount points are removed here,
also after a crash: they have fixed names, so there is only one node on a machine at a time.
"""

import json
import subprocess
import time
from pathlib import Path

CABLE = "windlass0"
HOST_ADDRESS, NODE_ADDRESS = "10.250.0.1", "10.250.0.2"
ROUTES = ("10.244.0.0/24", "10.96.0.0/16")  # pods and services, reachable from the host
CONTROL_GROUP = "windlass-bench"
MOUNT_POINTS = {"cni-cache": "/var/lib/cni", "host-path": "/tmp/hostpath_pv"}  # paths that are fixed in libcni and in kube-controller-manager


def connect(pid: int, owner: Path) -> None:
    """Lays the cable from the host to the node whose process 1 is `pid` out here."""
    _ip("link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", CABLE, "alias", str(owner))
    _ip("address", "add", f"{HOST_ADDRESS}/30", "dev", CABLE)
    _ip("link", "set", CABLE, "up")
    for route in ROUTES:
        _ip("route", "add", route, "via", NODE_ADDRESS)


def owner_of_cable() -> Path | None:
    """The directory of the cluster whose node is on this machine."""
    links = subprocess.run(["ip", "-json", "link", "show"], capture_output=True, text=True, check=True).stdout
    for link in json.loads(links):
        if link["ifname"] == CABLE:
            return Path(link.get("ifalias", "/"))
    return None


def make_control_groups() -> None:
    """The group all pods are in, in every hierarchy there is."""
    for root in _hierarchies():
        (root / CONTROL_GROUP).mkdir(exist_ok=True)
    cpus = Path("/sys/fs/cgroup/cpuset")
    for file in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts a group with none
        if (cpus / file).exists():
            (cpus / CONTROL_GROUP / file).write_text((cpus / file).read_text())


def freezer_of_pods() -> Path:
    version1 = Path("/sys/fs/cgroup/freezer")
    return (version1 if version1.exists() else Path("/sys/fs/cgroup")) / CONTROL_GROUP / "kubepods"


def thaw_pods() -> None:
    """What is frozen cannot die."""
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        file = freezer_of_pods() / name
        if file.exists():
            file.write_text(value)


def clean() -> None:
    """Removes what a node leaves. It must be dead."""
    thaw_pods()
    end = time.monotonic() + 10
    while (left := _leavings()) and time.monotonic() < end:
        for path in left:
            try:
                path.rmdir()
            except OSError:
                pass  # still in use for a moment
        time.sleep(0.05)
    if left:
        raise RuntimeError(f"cannot remove {left[0]}: something still uses it")


def _leavings() -> list[Path]:
    groups = [root / CONTROL_GROUP for root in _hierarchies()]
    inner = [path for group in groups if group.exists() for path in group.rglob("*") if path.is_dir()]
    points = [Path(at) for at in MOUNT_POINTS.values() if Path(at).is_dir() and not any(Path(at).iterdir())]
    cable = [Path("/sys/class/net", CABLE)]
    return [path for path in sorted(inner, reverse=True) + groups + points if path.exists()] + [path for path in cable if path.exists()]


def _hierarchies() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]


def _ip(*arguments: str) -> None:
    ended = subprocess.run(["ip", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)} ended with {ended.returncode}: {ended.stdout.strip()}")
