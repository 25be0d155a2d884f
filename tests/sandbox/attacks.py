"""What a model's code may try, and what must come of it. Also a program: `python -m tests.sandbox.attacks [name ...]`.

The program enters a throwaway mount, process, network and ipc namespace first, so that a probe that gets out of the sandbox
meets nothing of the machine's; there it carries out the attacks one after another and prints {name: what went wrong or null}.
After each it looks, from outside the sandbox, for anything left, and runs an honest job. The control arm carries out the same
probes unprotected, to show that they bite; it refuses to run as root.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from postgrad.sandbox import Ended, Limits, Outcome, host, linux, run, seccomp
from postgrad.sandbox.census import descendants
from postgrad.sandbox.host import memory_place

LIMITS = Limits(wall_s=10, cpu_s=10, memory_bytes=256 << 20)
NUMBERS = {name: both[not linux.X86] for name, both in seccomp.DENIED.items() if both[not linux.X86] is not None}

PRELUDE = """
import ctypes, errno, json, os, re, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return "done" if done >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(act):
    try:
        return "done " + repr(act())[:200]
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except Exception as error:
        return type(error).__name__
def tell(fact):
    print(json.dumps(fact), flush=True)
"""


@dataclass(frozen=True)
class Scene:
    """What the attacker is after, all of it outside."""

    folder: Path
    token: str
    tcp: int
    abstract: str
    path: str

    @property
    def secret(self) -> Path:
        return self.folder / "secret.txt"


@dataclass(frozen=True)
class Attack:
    code: str
    check: Callable[[Outcome, Scene], None] = lambda outcome, scene: None
    ended: tuple[Ended, ...] = (Ended.OK,)
    limits: Limits = LIMITS
    collect: tuple[str, ...] = ()
    argv: tuple[str, ...] = (sys.executable, "-I", "attack.py")
    bites: bool = False
    """Whether it does harm without a sandbox that the control arm may do: then `check` must fail there."""
    files: dict[str, bytes] = field(default_factory=dict)
    needs: str = ""
    """A program without which it cannot be carried out."""


def fact(outcome: Outcome) -> Any:
    assert outcome.stdout, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


def below(most: int) -> Callable[[Outcome, Scene], None]:
    def check(outcome: Outcome, scene: Scene) -> None:
        count, error = fact(outcome)
        assert 0 < count <= most, (count, error)
        assert error in ("EAGAIN", "ENOSPC", "EFBIG", "ENAMETOOLONG"), error

    return check


def none_done(outcome: Outcome, scene: Scene) -> None:
    done = {name: said for name, said in fact(outcome).items() if str(said).startswith("done")}
    assert not done, done


def soon(outcome: Outcome, scene: Scene) -> None:
    """Left alone, it would go on for a minute; a busy machine may take a second or two to notice."""
    assert outcome.wall_s <= 5, outcome.wall_s


def burnt(seconds: float) -> Callable[[Outcome, Scene], None]:
    def check(outcome: Outcome, scene: Scene) -> None:
        assert outcome.cpu_s <= seconds, outcome.cpu_s

    return check


def signalled(number: int) -> Callable[[Outcome, Scene], None]:
    def check(outcome: Outcome, scene: Scene) -> None:
        assert (outcome.signal, outcome.code) == (number, None), outcome

    return check


def says(expected: Any) -> Callable[[Outcome, Scene], None]:
    def check(outcome: Outcome, scene: Scene) -> None:
        assert fact(outcome) == expected, (fact(outcome), expected)

    return check


def tells_nothing(outcome: Outcome, scene: Scene) -> None:
    everything = outcome.stdout + outcome.stderr + b"".join(outcome.files.values())
    assert scene.token.encode() not in everything, everything[:500]


def _collected(outcome: Outcome, scene: Scene) -> None:
    assert dict(outcome.files) == {"fine": b"fine"}, outcome.files


def _kept(outcome: Outcome, scene: Scene) -> None:
    assert outcome.stdout == b"x" * LIMITS.output_bytes


def _raw(outcome: Outcome, scene: Scene) -> None:
    assert outcome.stdout == b"\x1b]0;title\x07\x1b[2J<script>\x00\xff\xfe", outcome.stdout


def _shown(outcome: Outcome, scene: Scene) -> None:
    assert fact(outcome) <= 3, fact(outcome)


def _memory_file(outcome: Outcome, scene: Scene) -> None:
    """A control group counts it; without one there are no memory files."""
    counted = memory_place() is not None
    assert outcome.ended == (Ended.OUT_OF_MEMORY if counted else Ended.OK), outcome
    assert counted or fact(outcome) == "EPERM", outcome


def _bare(outcome: Outcome, scene: Scene) -> None:
    said = fact(outcome)
    assert said["CapEff"] == said["CapPrm"] == said["CapBnd"] == said["CapAmb"] == "0000000000000000", said
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2"), said
    assert said["su"] != 0, said
    assert said["uid"] == said["euid"] != 0, said


_FORKS = """
count, error = 0, None
while count < 600:
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError as caught:
        error = errno.errorcode[caught.errno]
        break
    count += 1
tell([count, error])
"""
_FILL = """
count, error = 0, None
try:
    for number in range(300):
        with open(FOLDER + f"/pg-attack-{number}", "wb") as file:
            file.write(bytes(1 << 20))
        count += 1
except OSError as caught:
    error = errno.errorcode[caught.errno]
tell([count, error])
"""

ATTACKS: dict[str, Attack] = {
    "01 fork bomb": Attack(_FORKS, below(64)),
    "02 fill the disk": Attack(_FILL.replace("FOLDER", "'.'"), below(64)),
    "02 fill the temporary folder": Attack(_FILL.replace("FOLDER", "'/tmp'"), below(64)),
    "03 many files": Attack(
        """
count, error = 0, None
try:
    while count < 60000:
        os.close(os.open(f"pg-attack-{count}", os.O_CREAT | os.O_WRONLY))
        count += 1
except OSError as caught:
    error = errno.errorcode[caught.errno]
tell([count, error])
""",
        below(4096),
    ),
    "03 deep folders": Attack(
        """
count, error = 0, None
try:
    while count < 5000:
        os.mkdir("d")
        os.chdir("d")
        count += 1
except OSError as caught:
    error = errno.errorcode[caught.errno]
tell([count, error])
""",
        below(4096),
    ),
    "04 allocate": Attack("x = bytearray(3 << 30)\nx[::4096] = b'a' * len(x[::4096])", ended=(Ended.OUT_OF_MEMORY,)),
    "04 allocate by children": Attack(
        """
for _ in range(4):
    if os.fork() == 0:
        kept = b"a" * (120 << 20)
        time.sleep(60)
time.sleep(60)
""",
        ended=(Ended.OUT_OF_MEMORY,),
    ),
    "05 shared memory file": Attack(_FILL.replace("FOLDER", "'/dev/shm'"), below(64)),
    "05 shared memory segment": Attack(
        f"tell(call({NUMBERS['shmget']}, 0, 1 << 30, 0o1777))", says("EPERM"), bites=True
    ),
    "05 memory file": Attack(
        """
kept = []
def fill():
    for number in range(40):
        kept.append(os.memfd_create("x"))
        os.write(kept[-1], bytes(32 << 20))
tell(attempt(fill))
""",
        _memory_file,
        ended=(Ended.OUT_OF_MEMORY, Ended.OK),
    ),
    "06 endless loop": Attack(
        "while True: pass", burnt(1.0), (Ended.TIMED_OUT,), replace(LIMITS, cpu_s=0.5, wall_s=60)
    ),
    "06 endless loop of children": Attack(
        "for _ in range(3): os.fork()\nwhile True: pass",
        burnt(1.0),
        (Ended.TIMED_OUT,),
        replace(LIMITS, cpu_s=0.5, wall_s=60),
    ),
    "06 deaf sleeper": Attack(
        "for n in range(1, 32):\n    attempt(lambda: signal.signal(n, signal.SIG_IGN))\ntime.sleep(60)",
        soon,
        (Ended.TIMED_OUT,),
        replace(LIMITS, wall_s=0.7),
    ),
    "07 flood of output": Attack("while True: os.write(1, b'x' * 65536)", _kept, (Ended.FLOODED,)),
    "07 flood of errors": Attack("while True: os.write(2, b'x' * 65536)", soon, (Ended.FLOODED,)),
    "08 daemon": Attack(
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        libc.prctl(15, b"kworker/0:1", 0, 0, 0)
        for number in range(3):
            os.close(number)
        time.sleep(60)
    os._exit(0)
os.wait()
tell("gone")
""",
        says("gone"),
    ),
    "09 pipe held open": Attack("if os.fork() == 0:\n    time.sleep(60)\ntell('end')\nos._exit(0)", soon),
    "10 secrets": Attack(
        """
import glob
def show(path):
    with open(path, "rb") as file:
        return file.read()[:4096]
for path in [SECRET, *glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), "/etc/shadow", "/proc/1/root" + SECRET]:
    try:
        os.write(1, show(path))
    except OSError as error:
        os.write(1, f"{path} {error}\\n".encode())
print(dict(os.environ))
""",
        tells_nothing,
        bites=True,
    ),
    "11 the host's processes": Attack("tell(len([name for name in os.listdir('/proc') if name.isdecimal()]))", _shown),
    "12 network": Attack(
        """
def reach(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(1)
        one.connect(address)
        if kind == socket.SOCK_DGRAM:
            one.send(b"x")
def listen(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.bind(address)
        one.listen()
tell({
    "tcp": attempt(lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", TCP))),
    "udp": attempt(lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", TCP))),
    "tcp6": attempt(lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("::1", TCP))),
    "listen": attempt(lambda: listen(socket.AF_INET, ("127.0.0.1", 0))),
    "raw": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "vsock": attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "netlink": attempt(lambda: socket.socket(16, socket.SOCK_RAW)),
    "abstract": attempt(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + ABSTRACT)),
    "path": attempt(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, PATH)),
})
""",
        none_done,
        bites=True,
    ),
    "13 reach for other processes": Attack(
        f"""
parent = os.getppid()
buffer = ctypes.create_string_buffer(64)
tell({{
    "attach": call({NUMBERS["ptrace"]}, 16, parent, 0, 0),
    "seize": call({NUMBERS["ptrace"]}, 0x4206, parent, 0, 0),
    "memory": attempt(lambda: open(f"/proc/{{parent}}/mem", "rb")),
    "descriptors": attempt(lambda: os.listdir(f"/proc/{{parent}}/fd")),
    "root": attempt(lambda: os.listdir(f"/proc/{{parent}}/root")),
    "read": call({NUMBERS["process_vm_readv"]}, parent, buffer, 1, buffer, 1, 0),
    "steal": call({NUMBERS["pidfd_getfd"]}, os.pidfd_open(parent), 0, 0),
}})
for number in range(1, 65):
    attempt(lambda: os.kill(1, number))
    attempt(lambda: os.kill(parent, number) if parent > 1 else None)
""",
        none_done,
    ),
    "14 denied calls": Attack(
        f"""
said = {{name: call(number, 0, 0, 0, 0, 0) for name, number in {NUMBERS}.items()}}
tell({{name: "done or " + answer for name, answer in said.items() if answer != "EPERM"}})
""",
        says({}),
        bites=True,
    ),
    "14 new namespaces": Attack(
        f"""
clone, clone3 = {(56, 220)[not linux.X86]}, 435
said = {{hex(flag): call(clone, flag | 17, 0, 0, 0, 0) for flag in (0x20000, *(1 << bit for bit in range(25, 31)))}}
said["clone3"] = call(clone3, 0, 0)
tell(said)
""",
        says({**{hex(flag): "EPERM" for flag in (0x20000, *(1 << bit for bit in range(25, 31)))}, "clone3": "ENOSYS"}),
    ),
    "15 the host's kernel": Attack(
        """
import stat
# Opened only: a write would be the whole machine's.
paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/dev/kmsg", "/dev/mem", "/dev/vda",
         "/dev/sda", "/dev/loop0", "/dev/kvm", "/dev/fuse", "/proc/1/oom_score_adj", "/proc/self/uid_map", "/etc/passwd",
         "/usr/bin/env", SECRET, sys.executable]
said = {path: attempt(lambda: os.open(path, os.O_WRONLY)) for path in paths}
for folder in ("/usr", "/", "/etc", "/dev", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/proc", os.path.dirname(SECRET)):
    said["make in " + folder] = attempt(lambda: os.mkdir(folder + "/pg-attack"))
said["block device"] = attempt(lambda: os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(254, 0)))
said["character device"] = attempt(lambda: os.mknod("memory", stat.S_IFCHR | 0o600, os.makedev(1, 1)))
said["mode"] = attempt(lambda: os.chmod("/usr/bin/env", 0o777))
said["owner"] = attempt(lambda: os.chown("/usr/bin/env", os.getuid(), os.getgid()))
said["nice"] = attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
said["root"] = attempt(lambda: os.setuid(0)) if os.getuid() else "EPERM"
said["limit"] = attempt(lambda: __import__("resource").setrlimit(6, (10000, 10000)))
tell(said)
""",
        none_done,
    ),
    "16 a program of root's": Attack(
        """
rows = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
names = ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
asked = subprocess.run(["su", "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True)
tell({**{name: rows[name].strip() for name in names}, "su": asked.returncode, "uid": os.getuid(), "euid": os.geteuid()})
""",
        _bare,
        needs="su",
    ),
    "17 results that are traps": Attack(
        """
os.symlink(SECRET, "link")
os.symlink("/etc/passwd", "known")
os.symlink("/", "folder")
open("one", "w").write("x")
os.link("one", "hard")
os.mkfifo("pipe")
os.mkdir("directory")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/dev/zero", "endless")
os.symlink("/proc/1/mem", "memory")
open("fine", "w").write("fine")
""",
        _collected,
        collect=(
            "link",
            "known",
            "folder/etc/passwd",
            "hard",
            "pipe",
            "directory",
            "socket",
            "endless",
            "memory",
            "fine",
        ),
    ),
    "17 an endless result": Attack(
        "open('sparse', 'w').truncate(60 << 20)", ended=(Ended.FLOODED,), collect=("sparse",)
    ),
    "18 change the harness": Attack(
        """
import site
said = {}
for folder in {*sys.path, sys.prefix, sys.base_prefix, *site.getsitepackages()}:
    if os.path.isdir(folder):
        said[folder] = attempt(lambda: open(folder + "/pg-attack.pth", "w").write("import os"))
tell(said)
for name in ("json.py", "sitecustomize.py", "usercustomize.py", "postgrad.py"):
    open(name, "w").write("raise SystemExit('taken over')")
""",
        none_done,
    ),
    "19 claim a result": Attack(
        """
import atexit
atexit.register(lambda: os.write(1, b'{"ended": "ok", "reward": 1}'))
for number in range(3, 64):
    attempt(lambda: os.write(number, b'\\x20' + bytes(7) + b'{"status": 0, "reward": 1}'))
os._exit(3)
""",
        ended=(Ended.FAILED,),
    ),
    "20 search the memory": Attack(
        """
found = []
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps.read().splitlines():
        span, rights = line.split()[:2]
        first, last = (int(one, 16) for one in span.split("-"))
        if "r" in rights and last < 1 << 47 and last - first < 1 << 28:
            try:
                memory.seek(first)
                found += re.findall(b"pg-secret-[0-9a-f]{32}", memory.read(last - first))
            except (OSError, ValueError):
                pass
tell(len(found))
""",
        says(0),
    ),
    "21 inherited descriptors": Attack(
        """
open_ones = {}
for number in range(1024):
    try:
        open_ones[number] = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        pass
tell(sorted(number for number, name in open_ones.items() if "attack.py" not in name))
""",
        says([0, 1, 2]),
    ),
    "22 control characters": Attack("os.write(1, b'\\x1b]0;title\\x07\\x1b[2J<script>\\x00\\xff\\xfe')", _raw),
    "22 a long line": Attack("os.write(1, b'x' * 10_000_000)", _kept, (Ended.FLOODED,)),
    "23 segmentation fault": Attack("ctypes.string_at(0)", signalled(signal.SIGSEGV), (Ended.CRASHED,)),
    "23 abort": Attack("os.abort()", signalled(signal.SIGABRT), (Ended.CRASHED,)),
    "23 stack overflow": Attack(
        "sys.setrecursionlimit(1 << 30)\nclass A:\n    def __getattr__(self, name): return getattr(self, name)\nA().x\n"
        "ctypes.string_at(0)",
        ended=(Ended.CRASHED, Ended.FAILED, Ended.OUT_OF_MEMORY),
    ),
    "24 terminal": Attack(
        """
import fcntl
tell({
    "tty": attempt(lambda: os.open("/dev/tty", os.O_RDWR)),
    "console": attempt(lambda: os.open("/dev/console", os.O_RDWR)),
    "new": attempt(lambda: os.open("/dev/ptmx", os.O_RDWR)),
    "type": attempt(lambda: fcntl.ioctl(0, 0x5412, b"x")),
    "paste": attempt(lambda: fcntl.ioctl(0, 0x541C, b"x")),
})
""",
        lambda outcome, scene: (
            none_done(outcome, scene),
            says("EPERM")(replace(outcome, stdout=json.dumps(fact(outcome)["type"]).encode()), scene),
        )[0],
    ),
    "25 include a secret": Attack(
        "print(subprocess.run(['g++', '-x', 'c++', '-', '-o', 'x'], input=f'#include \"{SECRET}\"'.encode(), capture_output=True))",
        tells_nothing,
        needs="g++",
        bites=True,
    ),
    "25 embed a secret": Attack(
        """
text = f'asm(".section .rodata\\\\n.incbin \\\\"{SECRET}\\\\"\\\\n.text");int main(){{}}'
print(subprocess.run(["g++", "-x", "c++", "-", "-o", "x"], input=text.encode(), capture_output=True))
if os.path.exists("x"):
    os.write(1, open("x", "rb").read())
""",
        tells_nothing,
        needs="g++",
        bites=True,
    ),
    "25 a huge object": Attack(
        """
text = b"char a[1u << 30] = {1}; int main() {}"
done = subprocess.run(["g++", "-x", "c++", "-", "-c", "-o", "x"], input=text, capture_output=True)
sys.exit(min(abs(done.returncode), 1))
""",
        ended=(Ended.FAILED, Ended.OUT_OF_MEMORY),
        needs="g++",
    ),
    "25 endless templates": Attack(
        """
text = "template <int N, int M> struct A { static const long v = A<N - 1, 2 * M>::v + A<N - 1, 2 * M + 1>::v; };"
text += "template <int M> struct A<0, M> { static const long v = M; }; long x = A<24, 0>::v; int main() {}"
done = subprocess.run(["g++", "-x", "c++", "-", "-c", "-o", "x"], input=text.encode(), capture_output=True)
sys.exit(min(abs(done.returncode), 1))
""",
        ended=(Ended.FAILED, Ended.OUT_OF_MEMORY, Ended.TIMED_OUT),
        limits=replace(LIMITS, cpu_s=1.5, wall_s=5),
        needs="g++",
    ),
    "25 a library that acts when loaded": Attack(
        """
text = '#include <fstream>\\n__attribute__((constructor)) void f() {{ std::ofstream("{0}") << "pg"; }}'.format(SECRET)
subprocess.run(["g++", "-x", "c++", "-", "-shared", "-fPIC", "-o", "x.so"], input=text.encode(), check=True)
ctypes.CDLL("./x.so")
""",
        needs="g++",
    ),
}


# ---- The harness ----------------------------------------------------------------------------------------------------


def perform(attack: Attack, scene: Scene) -> Outcome:
    code = PRELUDE + _named(scene) + attack.code
    return run(
        attack.argv, files={"attack.py": code.encode(), **attack.files}, collect=attack.collect, limits=attack.limits
    )


def _named(scene: Scene) -> str:
    names = {"SECRET": str(scene.secret), "TCP": scene.tcp, "ABSTRACT": scene.abstract, "PATH": scene.path}
    return "".join(f"{name} = {value!r}\n" for name, value in names.items())


def control(attack: Attack, scene: Scene) -> Outcome:
    """The same probe without a sandbox. Only as another user than root, and only in a throwaway namespace."""
    if os.getuid() == 0:
        raise PermissionError("the unprotected control arm does not run as root")
    code = PRELUDE + _named(scene) + attack.code
    python = sys.executable if os.access(sys.executable, os.X_OK) else "/usr/bin/python3"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, timeout=30, check=False, cwd="/tmp")
    return Outcome(Ended.OK if done.returncode == 0 else Ended.FAILED, done.returncode, stdout=done.stdout)


def census(scene: Scene) -> dict[str, Any]:
    """All that an attack could leave, read from outside the sandbox."""
    place = memory_place()
    groups = [] if place is None else [path.name for path in Path(place).iterdir() if path.name.startswith("postgrad-")]
    return {
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "segments": Path("/proc/sysvipc/shm").read_text(),
        "groups of ours": [name for name in groups if name.startswith(f"postgrad-{_launcher_pid()}-")],
        "shared memory": sorted(name for name in os.listdir("/dev/shm") if name.startswith("pg-attack")),
        "temporary": sorted(name for name in os.listdir("/tmp") if name.startswith("pg-attack")),
        "here": sorted(os.listdir(".")),
        "folder": sorted(path.name for path in scene.folder.iterdir()),
        "secret": (scene.secret.read_text(), scene.secret.stat().st_mode, scene.secret.stat().st_mtime_ns),
        "host": (Path("/proc/sys/kernel/core_pattern").read_text(), socket.gethostname()),
        "system": Path("/usr/bin/env").stat().st_mode,
    }


def _launcher_pid() -> int:
    assert host._launcher._process is not None
    return host._launcher._process.pid


def baseline(scene: Scene) -> dict[str, Any]:
    """With the launcher and nothing else."""
    honest()
    until = time.monotonic() + 3
    while supervisors := descendants(_launcher_pid()):
        assert time.monotonic() < until, supervisors
        time.sleep(0.005)
    return census(scene)


def settled(scene: Scene, before: dict[str, Any]) -> None:
    """Nothing is left. Supervisors end a moment after they have told the outcome."""
    until = time.monotonic() + 3
    while (now := census(scene)) != before and time.monotonic() < until:
        time.sleep(0.005)
    assert now == before, {name: (before[name], now[name]) for name in now if now[name] != before[name]}


def honest() -> None:
    done = run(["/bin/echo", "still here"], limits=LIMITS)
    assert (done.ended, done.stdout) == (Ended.OK, b"still here\n"), done


def outcome_of(attack: Attack, scene: Scene, before: dict[str, Any]) -> None:
    found = perform(attack, scene)
    assert found.ended in attack.ended, found
    attack.check(found, scene)
    honest()
    settled(scene, before)


def carry_out(names: list[str], scene: Scene) -> dict[str, str | None]:
    before = baseline(scene)
    said: dict[str, str | None] = {}
    for name in names:
        attack = ATTACKS[name]
        if attack.needs and shutil.which(attack.needs) is None:
            said[name] = f"skip: no {attack.needs} here"
            continue
        try:
            outcome_of(attack, scene, before)
            said[name] = None
        except Exception:
            said[name] = traceback.format_exc()
    return said


QUICK = [name for name, attack in ATTACKS.items() if not name.startswith(("25", "06", "04", "05", "03"))]


def in_a_row(count: int, scene: Scene) -> dict[str, str | None]:
    """Many candidates, one after another, in an order drawn from a seed."""
    before, random_order = baseline(scene), random.Random(0)
    wrong = []
    for number in range(count):
        name = random_order.choice(QUICK)
        found = perform(ATTACKS[name], scene)
        try:
            assert found.ended in ATTACKS[name].ended, found
            ATTACKS[name].check(found, scene)
        except AssertionError:
            wrong.append(f"{number} {name}: {traceback.format_exc()}")
    try:
        honest()
        settled(scene, before)
    except AssertionError:
        wrong.append(traceback.format_exc())
    return {f"{count} in a row": "\n".join(wrong) or None}


def unprotected(names: list[str], scene: Scene) -> dict[str, str | None]:
    """The control arm, as another user: null where the probe did its harm."""
    said: dict[str, str | None] = {}
    for name in names:
        try:
            found = control(ATTACKS[name], scene)
            ATTACKS[name].check(found, scene)
            said[name] = f"did nothing unprotected, so it proves nothing: {found}"
        except AssertionError:
            said[name] = None
        except Exception:
            said[name] = traceback.format_exc()
    return said


def throwaway(act: Callable[[], dict[str, str | None]]) -> dict[str, str | None]:
    """Carry out `act` in namespaces that vanish with it. Raises OSError where there are none to be had."""
    user, group = os.getuid(), os.getgid()
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    if user:
        linux.unshare(linux.CLONE_NEWUSER | flags)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    else:
        linux.unshare(flags)
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("proc", "/proc", "proc", 0)
            _up()
            said = act()
        except BaseException:
            said = {"throwaway": traceback.format_exc()}
        with open(told, "wb") as file:
            file.write(json.dumps(said).encode())
        os._exit(0)
    os.close(told)
    with open(heard, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)  # type: ignore[no-any-return]


def _up() -> None:
    """The loopback device of the throwaway network, so that there is a service to reach."""
    with socket.socket() as one:
        request = b"lo".ljust(16, b"\0") + (0x49).to_bytes(2, "little") + bytes(14)
        fcntl.ioctl(one, 0x8914, request)  # SIOCSIFFLAGS: up, running, loopback


def scene_in(folder: Path) -> Scene:
    token = "pg-secret-" + os.urandom(16).hex()
    (folder / "secret.txt").write_text(token)
    os.environ["POSTGRAD_SECRET"] = token
    tcp, abstract, path = socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    abstract.bind("\0pg-attack-abstract")
    path.bind(str(folder / "service"))
    os.chmod(folder / "service", 0o777)
    for one in (tcp, abstract, path):
        one.listen(64)
    number = tcp.getsockname()[1]
    for one in (tcp, abstract, path):
        one.detach()  # open until the end
    return Scene(folder, token, number, "pg-attack-abstract", str(folder / "service"))


def main(arguments: list[str]) -> None:
    kind, folder, *names = arguments
    names = names or list(ATTACKS)

    def act() -> dict[str, str | None]:
        scene = scene_in(Path(folder))
        if kind == "watched":  # as where no control group can be had
            host._place[:] = [None]
        if kind == "lockdown":
            os.environ[host.SETTING] = "lockdown"
        if kind in ("attacks", "watched", "lockdown"):
            return carry_out(names, scene)
        if kind == "row":
            return in_a_row(int(names[0]), scene)
        assert kind == "unprotected", kind
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(60_001, 60_001, 60_001)
            os.setresuid(60_001, 60_001, 60_001)
        return unprotected(names, scene)

    print(json.dumps(throwaway(act)))


if __name__ == "__main__":
    main(sys.argv[1:])
