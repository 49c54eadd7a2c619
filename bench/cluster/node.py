"""The node: container runtime, kubelet, service addresses, DNS and volumes, in namespaces of its own.

The supervisor is process 1 of new process, mount and network namespaces. Mounts, interfaces, firewall rules and processes
made in here end with it; the host has one end of a cable, and control groups, which `host.py` removes.
"""

import json
import socket
import struct
import time
from pathlib import Path

from control_plane import PODS, ControlPlane, Endpoints
from host import CONTROL_GROUP, HOST_ADDRESS, MOUNT_POINTS, NODE_ADDRESS, freezer_of_pods
from oci import read_name_and_digest
from state import IMAGES, MANIFESTS, State
from supervisor import Broken, Supervisor

NAME = "node"
DNS_ADDRESS = "10.96.0.10"
PAUSE = "windlass.dev/bench/pause:1"
CONTAINERD = "/run/containerd/containerd.sock"
CSI = "/run/kubelet/plugins_registry/csi.windlass.dev.sock"

# What the kubelet wants the kernel to be set to. It sees these values, and the host keeps its own.
KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


class Node:
    def __init__(self, state: State, supervisor: Supervisor):
        self.state, self.supervisor, self.directory = state, supervisor, state.directory

    def bring_up(self) -> None:
        self._mount()
        self._connect()
        plane = ControlPlane(self.state, self.supervisor, Endpoints(NODE_ADDRESS, 6443, 2379, 2380), has_node=True)
        plane.start()
        self._load_images()
        self._start_runtime()
        plane.finish()
        self._start_node(plane)
        self._start_volumes(plane)
        plane.kubectl("apply", "--server-side", "-f", MANIFESTS)
        self.supervisor.wait("the node's readiness", lambda: node_is_ready(plane), 60, "kubelet")
        self.supervisor.wait("an answer of DNS", lambda: resolves("kubernetes.default.svc.cluster.local"), 30, "coredns")
        self.supervisor.wait("the CSI driver's registration", lambda: driver_is_registered(plane), 30, "csi-driver")

    def _mount(self) -> None:
        run = self.supervisor.run
        run("mount", "-t", "proc", "proc", "/proc")
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
        run("mount", "--make-rshared", "/")
        for name, wanted in KERNEL.items():
            stand_in = Path("/run/kernel", name)
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text(f"{wanted}\n")
            run("mount", "--bind", stand_in, Path("/proc/sys", name))
        for kept, at in {"kubelet": "/run/kubelet", "volumes": "/run/volumes", "var-log": "/var/log", **MOUNT_POINTS}.items():
            (self.directory / kept).mkdir(exist_ok=True)
            Path(at).mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", self.directory / kept, at)

    def _connect(self) -> None:
        run = self.supervisor.run
        self.supervisor.wait("the cable to the host", lambda: Path("/proc/self/net/dev").read_text().count("eth0"), 10, "supervisor")
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{NODE_ADDRESS}/30", "dev", "eth0")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "route", "add", "default", "via", HOST_ADDRESS)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
            setting.write_text("1")  # a service's answer between two pods of one bridge is translated, too
        self._write("resolv.conf", "# what pods with dnsPolicy Default see: nothing\n")
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods",
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self.directory / "cni").mkdir()
        self._write("cni/pods.conflist", json.dumps(network))

    def _containerd(self, more: str) -> None:
        config = self._write(
            "containerd.toml",
            f"""version = 2
root = "{self.directory}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"{more}
""",
        )
        self.supervisor.start("containerd", "containerd", "--config", config, "--log-level", "warn")
        self.supervisor.wait("containerd's socket", lambda: answers(CONTAINERD), 20, "containerd")

    def _load_images(self) -> None:
        """Removes what containers of an earlier run left, and imports images that are new. The runtime for pods is off meanwhile."""
        self._containerd(', "io.containerd.grpc.v1.cri"]')
        ctr = lambda *arguments: self.supervisor.run("ctr", "--namespace", "k8s.io", *arguments, timeout=300)  # noqa: E731
        left = ctr("containers", "list", "--quiet").split()
        if left:
            ctr("containers", "remove", *left)
        there = {line.split()[0]: line.split()[2] for line in ctr("images", "list").splitlines()[1:]}
        wanted = {name: (digest, archive) for archive in sorted(IMAGES.glob("*.tar")) for name, digest in [read_name_and_digest(archive)]}
        digests = {digest for digest, _ in wanted.values()}
        outdated = [name for name, digest in there.items() if digest not in digests]
        if outdated:
            ctr("images", "remove", *outdated)
        for name, (digest, archive) in wanted.items():
            if there.get(name) != digest:
                print(f"import {name}", flush=True)
                ctr("images", "import", archive)
        self.supervisor.end("containerd")

    def _start_runtime(self) -> None:
        plugins = next((at for at in ("/usr/lib/cni", "/opt/cni/bin") if Path(at, "bridge").exists()), None)
        if plugins is None:
            raise Broken("the CNI plugins are in neither /usr/lib/cni nor /opt/cni/bin; run bench/install kubernetes")
        # restrict_oom_score_adj: without CAP_SYS_RESOURCE a pod's score cannot be lowered, and every sandbox would die of it.
        self._containerd(
            f"""]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{self.directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
        )

    def _start_node(self, plane: ControlPlane) -> None:
        start, certificates = self.supervisor.start, plane.certificates
        start(
            "kube-scheduler",
            *("kube-scheduler", f"--kubeconfig={plane.client('scheduler', 'system:kube-scheduler')}", "--leader-elect=false", "--secure-port=0"),
        )
        certificates.server("kubelet-serving", f"IP:{NODE_ADDRESS},DNS:{NAME}")
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(certificates.authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificates.crt("kubelet-serving")),
            "tlsPrivateKeyFile": str(certificates.key("kubelet-serving")),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CONTROL_GROUP}",
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.directory / "resolv.conf"),
            "podLogsDir": "/var/log/pods",
            "volumePluginDir": "/run/kubelet/volume-plugins",
            # A full disk of the machine is the machine's matter.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }
        start(
            "kubelet",
            "kubelet",
            f"--config={self._write('kubelet.json', json.dumps(kubelet))}",
            f"--kubeconfig={plane.client('kubelet', f'system:node:{NAME}', 'system:nodes')}",
            "--root-dir=/run/kubelet",
            f"--hostname-override={NAME}",
            f"--node-ip={NODE_ADDRESS}",
        )
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": NAME,
            "clusterCIDR": PODS,
            "oomScoreAdj": 0,
            "clientConnection": {"kubeconfig": str(plane.client("kube-proxy", "system:kube-proxy"))},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "iptables": {"minSyncPeriod": "0s"},
            "metricsBindAddress": "127.0.0.1:10249",
        }
        start("kube-proxy", "kube-proxy", f"--config={self._write('kube-proxy.json', json.dumps(proxy))}")
        corefile = f"""cluster.local:53 in-addr.arpa:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {plane.client("dns", "windlass-bench:dns")}
        pods insecure
        ttl 5
    }}
}}
.:53 {{
    bind {NODE_ADDRESS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
        start("coredns", "coredns", "-conf", self._write("Corefile", corefile))

    def _start_volumes(self, plane: ControlPlane) -> None:
        start, kubeconfig = self.supervisor.start, f"--kubeconfig={plane.client('storage', 'windlass-bench:storage')}"
        Path(CSI).parent.mkdir(exist_ok=True)
        start("csi-driver", "csi-driver", "-root=/run/volumes", f"-socket={CSI}", f"-node={NAME}", f"-pods={freezer_of_pods()}")
        start("snapshot-controller", "snapshot-controller", kubeconfig)
        start("csi-snapshotter", "csi-snapshotter", kubeconfig, f"--csi-address={CSI}", "--extra-create-metadata")
        start("csi-provisioner", "csi-provisioner", kubeconfig, f"--csi-address={CSI}", "--extra-create-metadata")

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


def node_is_ready(plane: ControlPlane) -> bool:
    path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return plane.kubectl("get", "node", NAME, "--ignore-not-found", "-o", path) == "True"


def driver_is_registered(plane: ControlPlane) -> bool:
    return "csi.windlass.dev" in plane.kubectl("get", "csinode", NAME, "--ignore-not-found", "-o", "jsonpath={.spec.drivers[*].name}")


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            return True
        except OSError:
            return False


def resolves(name: str) -> bool:
    """Whether the service address of DNS, as pods use it, answers with an address."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + question + struct.pack(">2H", 1, 1), (DNS_ADDRESS, 53))
            answer = client.recv(512)
        except OSError:
            time.sleep(0.1)
            return False
    flags, answers_given = struct.unpack_from(">2xH2xH", answer)
    return flags & 0xF == 0 and answers_given > 0

