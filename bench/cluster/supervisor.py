"""Starts components, waits for what they promise, and outlives none of them.

Every component is a child that the kernel kills when the supervisor dies, so a kill -9 of it leaves nothing behind.
Inside a node the supervisor is also process 1 of the node's namespaces, and everything in them ends with it.
"""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from state import BIN, State

TAIL = 25  # lines of a log that an error shows
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Broken(Exception):
    """The cluster cannot come up, and why."""


class Supervisor:
    def __init__(self, state: State):
        self.state = state
        self._names: dict[int, str] = {}
        self._ended: dict[int, str] = {}
        state.logs.mkdir(exist_ok=True)
        os.environ["PATH"] = f"{BIN}:/usr/local/sbin:/usr/sbin:/sbin:{os.environ['PATH']}"
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))

    def start(self, name: str, *command: object, environment: dict[str, str] | None = None) -> None:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                cwd="/",
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        self._names[process.pid] = name
        self._record()

    def end(self, name: str) -> None:
        """Ends one component that is to end."""
        pid = next(pid for pid, known in self._names.items() if known == name)
        del self._names[pid]
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        self._record()

    def run(self, *command: object, timeout: float = 60) -> str:
        """Runs a command to its end and returns what it printed."""
        words = [str(word) for word in command]
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        if ended.returncode:
            raise Broken(f"{' '.join(words)} ended with {ended.returncode}:\n{ended.stdout.strip()}")
        return ended.stdout

    def wait(self, what: str, probe, seconds: float, log: str) -> None:
        """Waits until `probe` returns true. A component that ends meanwhile, or the time's end, breaks the cluster."""
        end = time.monotonic() + seconds
        while not probe():
            self._reap(during_start=True)
            if time.monotonic() > end:
                raise Broken(f"{what} did not come within {seconds:.0f} s. The end of {self._log(log)}:\n{self._tail(log)}")
            time.sleep(0.05)

    def serve(self, goes_on=lambda: True) -> None:
        """Reaps what ends, until told to stop or `goes_on` says no. A component that ends is recorded and not restarted."""
        while goes_on():
            self._reap(during_start=False)
            time.sleep(0.2)

    def stop(self) -> None:
        """Kills all components: what they hold is thrown away."""
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)
        while self._names:
            self._reap(during_start=False)
            time.sleep(0.01)

    def _reap(self, during_start: bool) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._names.pop(pid, None)
            if name is None:
                continue  # an orphan of the node
            self._ended[pid] = name
            self._record()
            how = f"{name} ended with {os.waitstatus_to_exitcode(status)}"
            if during_start:
                raise Broken(f"{how}. The end of {self._log(name)}:\n{self._tail(name)}")
            print(how, flush=True)

    def _record(self) -> None:
        """Lists the components: a line "runs|ended <process id as seen in here> <name>" each."""
        unfinished = self.state.components.with_suffix(".part")
        lines = [("runs", *known) for known in self._names.items()] + [("ended", *known) for known in self._ended.items()]
        unfinished.write_text("".join(f"{how} {pid} {name}\n" for how, pid, name in lines))
        unfinished.rename(self.state.components)

    def _log(self, name: str) -> Path:
        return self.state.logs / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines() if self._log(name).exists() else []
        return "\n".join("    " + line for line in lines[-TAIL:]) or "    (empty)"
