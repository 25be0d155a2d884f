"""The honest side: what a program gets, how its end is told, and what a worker answers."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from postgrad import sandbox
from postgrad.sandbox import (
    Ended,
    Limits,
    Outcome,
    Worker,
    WorkerEnded,
    WorkerTimeout,
    cgroup,
    channel,
    host,
    run,
    supervise,
)

LIMITS = Limits(wall_s=20, cpu_s=20, memory_bytes=256 << 20)
PYTHON = sys.executable


@pytest.fixture(scope="module", autouse=True)
def _works() -> None:
    found = run(["true"], limits=LIMITS)
    if found.ended == Ended.BROKEN:
        pytest.skip(f"this machine offers no sandbox: {found.reason}")


def python(code: str, **settings: object) -> Outcome:
    return run([PYTHON, "-I", "-c", code], **{"limits": LIMITS, **settings})  # type: ignore[arg-type]


def test_output_input_and_files() -> None:
    code = "import sys; print(sys.stdin.read() + open('a/b.txt').read()); print('e', file=sys.stderr); open('out', 'w').write('3')"
    found = python(code, stdin=b"one ", files={"a/b.txt": b"two"}, collect=["out", "missing"])
    assert (found.ended, found.code, found.signal, found.reason) == (Ended.OK, 0, None, "")
    assert (found.stdout, found.stderr, dict(found.files)) == (b"one two\n", b"e\n", {"out": b"3"})
    assert 0 < found.wall_s < 20
    assert 0 < found.cpu_s < 20
    assert found.peak_bytes is not None
    assert 1 << 20 < found.peak_bytes < 256 << 20


def test_ends() -> None:
    failed = python("raise SystemExit(3)")
    assert (failed.ended, failed.code, failed.signal) == (Ended.FAILED, 3, None)
    crashed = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (crashed.ended, crashed.code, crashed.signal) == (Ended.CRASHED, None, signal.SIGSEGV)
    late = python("import time; time.sleep(9)", limits=replace(LIMITS, wall_s=0.5))
    assert (late.ended, late.code, late.signal) == (Ended.TIMED_OUT, None, None)
    assert 0.5 <= late.wall_s < 4
    assert "0.5 s" in late.reason


def test_a_program_that_is_not_there_is_our_failure() -> None:
    found = run(["no-such-compiler"], limits=LIMITS)
    assert found.ended == Ended.BROKEN
    assert "no-such-compiler" in found.reason
    assert "`read`" in found.reason


def test_what_is_asked_for_is_seen_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "data.txt").write_text("seen")
    (tmp_path / "link").symlink_to(tmp_path / "data.txt")
    (tmp_path.parent / "hidden").write_text("unseen")
    code = f"""
import os
print(open("{tmp_path}/link").read(), os.listdir("{tmp_path.parent}"))
try:
    open("{tmp_path}/new", "w")
except OSError as error:
    print(error.errno)
"""
    found = python(code, read=[tmp_path])
    assert found.stdout.decode().splitlines() == [f"seen ['{tmp_path.name}']", "30"], found


@pytest.mark.skipif(os.getuid() != 0, reason="only root's sandboxes run as another user")
def test_a_folder_that_others_may_not_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ValueError, match=r"mode 700.*chmod o\+rX"):
        python("", read=[tmp_path])


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"files": {"../a": b""}}, "working folder"),
        ({"files": {"/etc/a": b""}}, "working folder"),
        ({"collect": [""]}, "working folder"),
        ({"read": [Path("/")]}, "name the folders"),
        ({"read": [Path("/no/such")]}, "does not exist"),
    ],
)
def test_what_no_sandbox_could_be_given(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        python("", **settings)


def test_limits_are_above_nothing() -> None:
    with pytest.raises(ValueError, match="cpu_s is 0"):
        Limits(wall_s=1, cpu_s=0, memory_bytes=1)


def test_many_at_a_time() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: python(f"print({number})").stdout, range(12)))
    assert found == [f"{number}\n".encode() for number in range(12)]


def test_a_forked_process_has_a_launcher_of_its_own() -> None:
    run(["true"], limits=LIMITS)
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, run(["echo", "forked"], limits=LIMITS).stdout)
        os._exit(0)
    os.close(told)
    with open(heard, "rb") as file:
        assert file.read() == b"forked\n"
    os.waitpid(child, 0)
    assert run(["echo", "on"], limits=LIMITS).stdout == b"on\n"


def test_a_launcher_that_was_killed_is_replaced() -> None:
    run(["true"], limits=LIMITS)
    process = host._launcher._process
    assert process is not None
    process.kill()
    process.wait()
    assert run(["echo", "on"], limits=LIMITS).stdout == b"on\n"


# ---- A layer that cannot be had -------------------------------------------------------------------------------------


def test_without_a_layer_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control group that cannot be made stands for any layer: BROKEN with its name, and not a run without it."""
    monkeypatch.setattr(host, "_place", ["/no/such/group"])
    found = python("print('ran')")
    assert (found.ended, found.stdout) == (Ended.BROKEN, b"")
    assert found.reason.startswith("memory: ")
    assert "/no/such/group" in found.reason
    with pytest.raises(WorkerEnded) as caught:
        Worker([PYTHON, "-c", "print('ran')"], limits=LIMITS)
    assert caught.value.outcome.ended == Ended.BROKEN


def test_without_user_namespaces_nothing_runs() -> None:
    """As an ordinary user where the kernel gives none; the reason names the remedy."""
    code = """
import os, sys
from pathlib import Path
from postgrad.sandbox import Limits, linux, run
linux.unshare(linux.CLONE_NEWUSER)
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"1000 {os.getuid()} 1")
Path("/proc/self/gid_map").write_text(f"1000 {os.getgid()} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
found = run(["echo", "ran"], limits=Limits(wall_s=5, cpu_s=5, memory_bytes=1 << 28))
print(found.ended, found.stdout, found.reason)
"""
    # The user and group are read before they change their names.
    code = code.replace("linux.unshare", "user, group = os.getuid(), os.getgid()\nlinux.unshare", 1)
    code = code.replace("{os.getuid()}", "{user}").replace("{os.getgid()}", "{group}")
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("broken b''"), done.stdout
    assert "users: " in done.stdout
    assert "max_user_namespaces" in done.stdout


# ---- Workers --------------------------------------------------------------------------------------------------------

ECHO = b"import channel\nfor message in channel.messages():\n    channel.answer(message.upper())\n"


def worker(program: bytes = ECHO, limits: Limits = LIMITS, pass_fds: tuple[int, ...] = ()) -> Worker:
    files = {"channel.py": channel.SOURCE, "program.py": b"import os, sys, time\n" + program}
    return Worker([PYTHON, "program.py"], files=files, limits=limits, pass_fds=pass_fds)


@pytest.fixture
def echo() -> Iterator[Worker]:
    with worker() as one:
        yield one


def test_a_worker_answers(echo: Worker) -> None:
    for message in (b"a", b"", b"long " * 100_000):
        assert echo.ask(message, 10) == message.upper()


def test_a_worker_is_counted_from_outside() -> None:
    program = b"""
import channel, threading
for message in channel.messages():
    if message == b"spin":
        until = time.process_time() + 0.3
        while time.process_time() < until: pass
    if message == b"spread":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        if os.fork() == 0: time.sleep(60)
    if message == b"child":
        child = os.fork()
        if child == 0:
            until = time.process_time() + 0.2
            while time.process_time() < until: pass
            os._exit(0)
        os.waitpid(child, 0)
    channel.answer(b"done")
"""
    with worker(program) as one:
        one.ask(b"", 10)
        assert (one.processes(), one.threads()) == (1, 1)
        before = one.cpu_seconds()
        one.ask(b"spin", 10)
        spun = one.cpu_seconds()
        assert 0.3 <= spun - before < 0.5
        one.ask(b"child", 10)
        assert 0.17 <= one.cpu_seconds() - spun < 0.4
        one.ask(b"spread", 10)
        assert (one.processes(), one.threads()) == (2, 3)
        assert Path(f"/proc/{one.pid}").exists()
    assert not Path(f"/proc/{one.pid}").exists()


def test_shared_memory_is_seen_by_both() -> None:
    number = os.memfd_create("tensor", os.MFD_ALLOW_SEALING)
    os.truncate(number, 4096)
    program = f"""
import channel, mmap
shared = mmap.mmap({number}, 4096)
for message in channel.messages():
    shared[:4] = shared[:4][::-1]
    channel.answer(b"")
""".encode()
    with mmap.mmap(number, 4096) as ours, worker(program, pass_fds=(number,)) as one:
        ours[:4] = b"abcd"
        one.ask(b"", 10)
        assert ours[:4] == b"dcba"
    os.close(number)


def test_a_worker_that_ends_says_how() -> None:
    with worker(b"import channel\nnext(channel.messages())\nprint('why', file=sys.stderr)\nos._exit(7)") as one:
        with pytest.raises(WorkerEnded) as caught:
            one.ask(b"", 10)
        outcome = caught.value.outcome
        assert (outcome.ended, outcome.code, outcome.stderr) == (Ended.FAILED, 7, b"why\n")
        with pytest.raises(WorkerEnded):
            one.ask(b"", 10)
        assert one.stderr() == b"why\n"


def test_a_worker_that_closes_its_channel_has_ended() -> None:
    with worker(b"import channel\nnext(channel.messages())\nchannel._own().close()\ntime.sleep(60)") as one:
        with pytest.raises(WorkerEnded) as caught:
            one.ask(b"", 10)
        assert caught.value.outcome.ended == Ended.FAILED
        assert "closed its channel" in caught.value.outcome.reason


def test_a_worker_that_does_not_answer_is_ended() -> None:
    with worker(b"import channel\nnext(channel.messages())\ntime.sleep(60)") as one:
        begun = time.monotonic()
        with pytest.raises(WorkerTimeout):
            one.ask(b"", 0.3)
        assert time.monotonic() - begun < 10
        assert not Path(f"/proc/{one.pid}").exists()
        with pytest.raises(WorkerEnded):
            one.ask(b"", 1)


@pytest.mark.parametrize("length", ["1 << 60", "(1 << 20) + 1"])
def test_a_reply_that_is_too_long_ends_it(length: str) -> None:
    program = f"import channel\nnext(channel.messages())\nchannel._own().sendall(({length}).to_bytes(8, 'little'))\ntime.sleep(60)"
    with worker(program.encode()) as one, pytest.raises(WorkerEnded) as caught:
        one.ask(b"", 10)
    assert caught.value.outcome.ended == Ended.FLOODED


def test_half_a_reply_is_no_reply() -> None:
    program = b"import channel\nnext(channel.messages())\nchannel._own().sendall(b'123')\ntime.sleep(60)"
    with worker(program) as one, pytest.raises(WorkerTimeout):
        one.ask(b"", 0.3)


def test_standard_error_so_far() -> None:
    program = b"import channel\nfor message in channel.messages():\n    os.write(2, message)\n    channel.answer(b'')"
    with worker(program) as one:
        one.ask(b"one ", 10)
        assert one.stderr() == b"one "
        one.ask(b"two", 10)
        assert one.stderr() == b"one two"
    assert one.stderr() == b"one two"


def test_a_worker_keeps_its_limits_between_questions() -> None:
    with worker(b"while True: pass", replace(LIMITS, cpu_s=0.3)) as one:
        with pytest.raises(WorkerEnded) as caught:
            one.ask(b"", 10)
        assert caught.value.outcome.ended == Ended.TIMED_OUT


def test_a_worker_outlives_the_thread_that_made_it() -> None:
    made: list[Worker] = []
    thread = threading.Thread(target=lambda: made.append(worker()))
    thread.start()
    thread.join()
    with made[0] as one:
        assert one.ask(b"x", 10) == b"X"


def test_nothing_outlives_whoever_asked() -> None:
    code = """
import sys, time
from tests.sandbox.test_sandbox import worker
one = worker()
one.ask(b"", 10)
print(one.pid, flush=True)
time.sleep(60)
"""
    asker = subprocess.Popen([PYTHON, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert asker.stdout is not None
    pid = int(asker.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    asker.kill()
    asker.wait()
    asker.stdout.close()
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "the worker is still there"
        time.sleep(0.01)


def test_the_public_names() -> None:
    assert all(hasattr(sandbox, name) for name in sandbox.__all__)


def test_every_layer_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {layer.name: layer for layer in sandbox.layers()}
    assert {name for name, layer in found.items() if not layer.active} <= {"landlock"}
    monkeypatch.setattr(host, "_place", ["/no/such/group"])
    broken = sandbox.layers()
    assert not any(layer.active for layer in broken)
    assert all("/no/such/group" in layer.found for layer in broken)


def test_less_is_asked_for_by_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sandbox.lockdown()
    monkeypatch.setenv("POSTGRAD_SANDBOX", "lockdown")
    assert sandbox.lockdown()
    monkeypatch.setenv("POSTGRAD_SANDBOX", "off")
    with pytest.raises(ValueError, match="wanted 'lockdown'"):
        sandbox.lockdown()


@pytest.mark.parametrize(
    ("mapped", "user"),
    [
        ("         0          0 4294967295", 1_879_048_192 + 7),
        ("         0     100000      65536", 60_007),
        ("         0       1000          1", None),
    ],
)
def test_the_user_of_a_sandbox(mapped: str, user: int | None) -> None:
    assert supervise.unused_user(7, mapped) == user


def test_where_control_groups_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_MOUNTED", tmp_path)
    user = tmp_path / "user.slice" / "app.slice"
    (user / "run.scope").mkdir(parents=True)
    (user / "cgroup.subtree_control").write_text("memory pids\n")
    (user.parent / "cgroup.subtree_control").write_text("cpu\n")
    # The second version: beside the own group, where the one above hands memory on.
    assert cgroup._candidates("0::/user.slice/app.slice/run.scope\n") == [user]
    # The first: beneath the own group, or the mount's root in a container that shows another one's path.
    assert cgroup._candidates("4:memory:/a/b\n0::/\n") == [tmp_path / "memory" / "a" / "b", tmp_path / "memory"]
    assert cgroup._candidates("3:cpu:/\n") == []
