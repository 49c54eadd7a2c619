"""Up and down: one supervisor per cluster, and nothing left when it is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import host
from control_plane import ControlPlane, Endpoints
from node import Node
from state import BIN, CRDS, IMAGES, State
from supervisor import Broken, Supervisor

WITH_NODE, API_ONLY = "node", "api"
PROGRAM = Path(__file__).resolve().parent / "cluster"
NAMESPACES = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--propagation=private")


def bring_up(state: State, mode: str, owner: int | None = None) -> int:
    """Starts a cluster, unless this one is well. Safe to run again, and while another is at it."""
    if mode == WITH_NODE and os.geteuid() != 0:
        sys.exit("a cluster with a node needs root; `api` does not")
    for needed in (BIN / "kube-apiserver", CRDS, *([IMAGES, BIN / "kubelet", BIN / "csi-driver"] if mode == WITH_NODE else [])):
        if not needed.exists():
            sys.exit(f"{needed} is missing; run bench/install kubernetes")
    with state.command():
        if is_well(state) and state.mode.read_text() == mode:
            print(f"already up: {state.kubeconfig}")
            return 0
        started, why = time.monotonic(), ""
        for _ in range(3):
            try:
                make_room(state, mode)
                why = start(state, mode, owner)
            except BaseException:
                stop(state)
                clean(state)
                raise
            if "address already in use" not in why:
                break  # else another program was faster to take a free port
        if why:
            clean(state)
            print(why, file=sys.stderr)
            return 1
        print(f"up in {time.monotonic() - started:.1f} s: {state.kubeconfig}")
        return 0


def make_room(state: State, mode: str) -> None:
    stop(state)
    if mode == WITH_NODE:
        if other := node_of_another(state):
            sys.exit(f"another cluster has its node on this machine; end it with: WINDLASS_CLUSTER={other} bench/cluster/cluster down")
        host.clean()
        host.make_control_groups()
    state.empty()
    state.mode.write_text(mode)
    state.logs.mkdir()
    state.requests.parent.mkdir()


def start(state: State, mode: str, owner: int | None) -> str:
    """Starts the supervisor and waits for it. Returns why the cluster did not come up."""
    with (state.logs / "supervisor.log").open("wb") as log:
        process = subprocess.Popen(
            [*(NAMESPACES if mode == WITH_NODE else ()), sys.executable, PROGRAM, "supervise", mode, *([f"--owner={owner}"] if owner else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=os.environ | {"WINDLASS_CLUSTER": str(state.directory)},
            start_new_session=True,
        )
    connected = mode == API_ONLY
    while not state.ready.exists():
        pid = state.pid()
        if pid and not connected:
            host.connect(pid, state.directory)
            connected = True
        if process.poll() is not None:
            return failure(state)
        time.sleep(0.05)
    return ""


def supervise(state: State, mode: str, owner: int | None) -> None:
    held = state.supervise()
    supervisor = Supervisor(state)
    try:
        if mode == WITH_NODE:
            Node(state, supervisor).bring_up()
        else:
            plane = ControlPlane(state, supervisor, Endpoints.on_free_ports(), has_node=False)
            plane.start()
            plane.finish()
        state.ready.touch()
        supervisor.serve(lambda: owner is None or Path(f"/proc/{owner}").exists())
    except Broken as broken:
        state.failed.write_text(f"the cluster did not come up: {broken}\n")
    finally:
        if mode == API_ONLY:  # a node's processes die with process 1 of their namespace
            supervisor.stop()
        held.close()


def take_down(state: State) -> int:
    if not state.directory.exists():
        return 0
    with state.command():
        was = state.pid() is not None
        stop(state)
        clean(state)
        print("down" if was else "nothing was up")
    return 0


def stop(state: State) -> None:
    """Ends the supervisor, and with it everything. Its process id stays until the last process of its node is dead."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = state.pid()
        if pid is None:
            return
        if has_node(state):
            host.thaw_pods()
        ending = {pid, os.getsid(pid)}  # a node's session is led by `unshare`
        os.kill(pid, number)
        end = time.monotonic() + 10
        while any(map(lives, ending)) and time.monotonic() < end:
            time.sleep(0.02)
    if state.pid():
        sys.exit(f"process {state.pid()} does not end")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def clean(state: State) -> None:
    if has_node(state) and not node_of_another(state):
        host.clean()
    state.ready.unlink(missing_ok=True)


def has_node(state: State) -> bool:
    return state.mode.exists() and state.mode.read_text() == WITH_NODE


def node_of_another(state: State) -> Path | None:
    """The directory of a living cluster, other than this, that has its node on this machine."""
    owner = host.owner_of_cable()
    return owner if owner and owner != state.directory and State(owner).pid() else None


def is_well(state: State) -> bool:
    return state.pid() is not None and state.ready.exists() and all(component.runs for component in state.list_components()) and api_answers(state)


def api_answers(state: State) -> bool:
    command = [str(BIN / "kubectl"), f"--kubeconfig={state.kubeconfig}", "get", "--raw=/readyz", "--request-timeout=5s"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def failure(state: State) -> str:
    if state.failed.exists():
        return state.failed.read_text().rstrip()
    return "the supervisor ended:\n" + (state.logs / "supervisor.log").read_text()
