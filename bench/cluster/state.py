"""A cluster's directory: where its files are, and whether it lives.

The supervisor holds a lock on `supervisor` as long as it lives, and that file holds its process id. So a record is never
stale: after a crash the lock is free.
"""

import contextlib
import fcntl
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
BIN = PROJECT / ".bench/bin"
IMAGES = PROJECT / ".bench/images"
CRDS = PROJECT / ".bench/crds"
MANIFESTS = Path(__file__).resolve().parent / "manifests"
AUDIT = Path(__file__).resolve().parent / "audit.yaml"

KEPT = {"containerd", "command.lock"}  # over a restart; containerd's images take seconds to unpack


@dataclass(frozen=True)
class Component:
    name: str
    runs: bool
    pid: int | None


class State:
    def __init__(self, directory: Path):
        self.directory = directory
        self.supervisor = directory / "supervisor"
        self.kubeconfig = directory / "kubeconfig"
        self.logs = directory / "logs"
        self.requests = directory / "requests/audit.log"
        self.mode = directory / "mode"
        self.ready = directory / "ready"
        self.failed = directory / "failed"
        self.components = directory / "components"

    @classmethod
    def named_by_environment(cls) -> "State":
        return cls(Path(os.environ.get("WINDLASS_CLUSTER") or PROJECT / ".bench/cluster").absolute())

    @contextlib.contextmanager
    def command(self):
        """One `up` or `down` at a time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "command.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def supervise(self):
        """Says that this process is the cluster's supervisor. Keep what it returns."""
        held = self.supervisor.open("a+")
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write(os.readlink("/proc/self"))  # as those outside of the node see it
        held.flush()
        return held

    def pid(self) -> int | None:
        """The supervisor's process id, if it lives."""
        try:
            with self.supervisor.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return int(self.supervisor.read_text() or 0) or None
        return None

    def list_components(self) -> list[Component]:
        """What the supervisor started. Process ids are as seen from out here."""
        if not self.components.exists():
            return []
        seen = {}
        with contextlib.suppress(OSError):  # those that end just now
            for child in Path(f"/proc/{self.pid()}/task/{self.pid()}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                seen[re.search(r"^NSpid:.*?(\d+)$", status, re.MULTILINE)[1]] = int(child)
        words = [line.split() for line in self.components.read_text().splitlines()]
        return [Component(name, runs == "runs", seen.get(pid)) for runs, pid, name in words]

    def empty(self) -> None:
        for path in self.directory.iterdir():
            if path.name in KEPT:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
