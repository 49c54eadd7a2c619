"""What measures, for the benchmarks: commands as whole processes, in turns, as durable as each other; a server; a settings file."""

import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".bench" / "bin"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WINDLASS = max(TARGET.glob("*/release/windlass"), key=lambda path: path.stat().st_mtime, default=TARGET / "windlass")
PASSWORD = "only-a-benchmark"
MIB = 1 << 20


class Case:
    """One thing that several tools do, each prepared anew before every round."""

    def __init__(self, title):
        self.title = title
        self.tools = {}
        self.seconds = {}
        self.peak = {}

    def tool(self, name, command, prepare=lambda: None, env=None, user=None, output=None):
        self.tools[name] = (command, prepare, env or {}, user, output)
        self.seconds[name], self.peak[name] = [], 0
        return self

    def round(self):
        for name in self.tools:
            self.only(name)

    def only(self, name):
        command, prepare, env, user, output = self.tools[name]
        prepare()
        os.sync()
        seconds, peak = timed(command, env, user, output)
        self.seconds[name].append(seconds)
        self.peak[name] = max(self.peak[name], peak)
        print(f"{self.title}: {name}: {seconds:.2f} s, {peak / MIB:.0f} MiB", file=sys.stderr, flush=True)

    def median(self, name):
        return statistics.median(self.seconds[name])


def timed(command, env, user, output):
    """Wall-clock seconds of a command and a `sync`, and the largest resident memory of the process itself."""
    began = time.monotonic()
    with open(output or os.devnull, "wb") as out, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=said, user=user, cwd="/")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{command}: ended with {process.returncode}:\n{said.read().decode(errors='replace')}")
    os.sync()
    return time.monotonic() - began, usage.ru_maxrss * 1024


def run(command, env=None, user=None):
    subprocess.run(command, check=True, env={**os.environ, **(env or {})}, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def fresh(*paths):
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def settings(work, components):
    """A settings file of Windlass, and its repository made."""
    work.mkdir(parents=True, exist_ok=True)
    passphrase = work / "passphrase"
    passphrase.write_text(PASSWORD)
    passphrase.chmod(0o600)
    file = work / "windlass.toml"
    file.write_text(
        f'state = "{work}/state"\n[repository.main]\nurl = "file://{work}/repository"\n'
        f'encryption = {{ passphrase = {{ file = "{passphrase}" }} }}\n[application.bench]\nrepository = "main"\n{components}'
    )
    return file


class Server:
    """A PostgreSQL server of its own, durable as by default."""

    def __init__(self, work, more=""):
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1]
        self.work = work
        work.mkdir(parents=True)
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self.user:
            os.chown(work, self.user.pw_uid, self.user.pw_gid)
        self.run("initdb", "-D", work / "data", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums")
        with open(work / "data" / "postgresql.conf", "a") as conf:
            conf.write("listen_addresses = ''\nshared_buffers = '512MB'\nmax_wal_size = '4GB'\n" + more)
        self.run("pg_ctl", "-D", work / "data", "-l", work / "log", "-w", "-o", f"-k {work}", "start")

    def run(self, tool, *arguments):
        run([self.bin / tool, *arguments], user=self.user.pw_name if self.user else None)

    def psql(self, base, sql):
        run([self.bin / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-h", self.work, "-U", "postgres", "-d", base, "-c", sql])

    def stop(self):
        self.run("pg_ctl", "-D", self.work / "data", "-m", "immediate", "stop")


def short(text):
    """A command without the paths of the machine it ran on."""
    words = []
    for word in text.split(" "):
        head, mark, value = word.rpartition("=") if "=/" in word or "host=" in word else ("", "", word)
        words.append(head + mark + (Path(value).name if value.startswith("/") else value))
    return " ".join(words)


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, Linux {os.uname().release.split('-')[0]}"


def rows(cases):
    """A table's rows: medians, and the ratio of each peer to Windlass."""
    lines = []
    for case in cases:
        for name in case.tools:
            ratio = "" if name == "windlass" else f"{case.median(name) / case.median('windlass'):.2f}"
            low, high = min(case.seconds[name]), max(case.seconds[name])
            lines.append(f"| {case.title} | {name} | {case.median(name):.2f} s | {low:.2f} to {high:.2f} | {ratio} | {case.peak[name] / MIB:.0f} MiB |")
    return "\n".join(lines)


def commands(cases):
    """What was run, without the paths of the machine it ran on."""
    lines = []
    for case in cases:
        for name, (command, *_) in case.tools.items():
            lines.append(f"{case.title}, {name}:\n    " + short(" ".join(str(word) for word in command)))
    return "\n".join(lines)


def write_section(title, text):
    """Writes a section of docs/benchmarks.md in the place of the one of that title; others stay."""
    page = ROOT / "docs" / "benchmarks.md"
    head, *sections = page.read_text().split("\n## ")
    titles = [section.split("\n", 1)[0] for section in sections]
    section = f"{title}\n\n{text.strip()}\n"
    if title in titles:
        sections[titles.index(title)] = section
    else:
        sections.append(section)
    page.write_text("\n## ".join([head.rstrip("\n") + "\n", *(section.rstrip("\n") + "\n" for section in sections)]))
