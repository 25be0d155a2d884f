"""A run's folder: what was asked, what happened, and where to go on. Its layout stands in docs/architecture.md."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from postgrad import __version__
from postgrad.progress import Progress, silent
from postgrad.protocols import Watch
from postgrad.ranks import ALONE, Ranks
from postgrad.records import Alarm
from postgrad.track import Name, Queued, start

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "math-verify", "pydantic")


class Failed(RuntimeError):
    """The run cannot go on, and the message says why and what to change. Exit code 1."""


class Preempted(Exception):
    """The run was asked to stop, saved itself, and can be resumed. Exit code 75, or 130 for Ctrl-C."""


class Alarmed(Exception):
    """A stage that is to go back at an alarm was ended by one."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(str(alarm))
        self.alarm = alarm


class Run:
    """Use `create` or `open`. One process at a time carries out its stages; a second one is refused.

    Where several ranks work on it, each has its own Run of the same folder, and those besides rank 0 write nothing.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.recipe: str = manifest["recipe"]
        self.preset: str = manifest["preset"]
        self.ranks: Ranks = ALONE
        self.progress: Progress = silent()
        self.trackers: list[Queued] = []
        self.watch: Watch | None = None
        self.ends_at_alarm = False
        self.stop_requested: str | None = None
        """Set by signal handlers to the signal's name; stages look at it between steps, others by `stop_if_asked`."""
        self._started = time.monotonic()

    @classmethod
    def create(cls, out: Path, *, recipe: str, preset: str, config: Any, command: Sequence[str]) -> Run:
        """A fresh folder. Raises ValueError where `out` already holds something: a run never overwrites another."""
        from postgrad.config import dump_yaml

        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            hint = (
                f"continue it with `postgrad resume {out}`"
                if (out / "manifest.json").is_file()
                else "choose another --out"
            )
            raise ValueError(f"{out} already exists and is not empty: {hint}")
        out.mkdir(parents=True, exist_ok=True)
        manifest = {
            "recipe": recipe,
            "preset": preset,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "postgrad": __version__,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "hardware": hardware(),
            "seed": config.seed,
        }
        write_text(out / "config.yaml", dump_yaml(config))
        write_text(out / "command.txt", shlex.join(command) + "\n")
        write_json(out / "manifest.json", manifest)
        return cls(out, manifest)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises ValueError where the folder is none."""
        if not (folder / "manifest.json").is_file():
            raise ValueError(
                f"{folder} is not a run's folder (it has no manifest.json): give the --out of an earlier `postgrad run`"
            )
        return cls(folder, json.loads((folder / "manifest.json").read_text()))

    @property
    def config_text(self) -> str:
        return (self.folder / "config.yaml").read_text()

    def stages(self) -> dict[str, Any]:
        path = self.folder / "stages.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def stage(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments)` once in the life of this run; its JSON result is kept and returned ever after.

        Arguments with a JSON form are fingerprinted. A stage whose arguments have changed since is an error: what
        follows would mix two configurations. Where there are several ranks, rank 0 does it and the others wait.
        """
        return self._stage(name, function, lambda: None, arguments)

    def stage_of_all(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """A stage in which every rank takes part; its result is rank 0's."""
        return self._stage(name, function, lambda: function(*arguments), arguments)

    def _stage(
        self, name: str, function: Callable[..., Any], besides: Callable[[], Any], arguments: Sequence[Any]
    ) -> Any:
        known, fingerprint = self.ranks.first(self._known, name, arguments)
        if known and known["status"] == "done":
            return known["result"]
        self.stop_requested = self.asked_to_stop()
        self.stop_if_asked(f"before {name}")
        result = None
        if self.ranks.is_main:
            with self._alone():
                result = self._carry_out(name, fingerprint, known, lambda: function(*arguments))
        else:
            besides()
        return self.ranks.agree(result, patient=True)

    def _known(self, name: str, arguments: Sequence[Any]) -> tuple[Mapping[str, Any] | None, str]:
        """What stages.json says of a stage, and the fingerprint of its arguments."""
        fingerprint = hashlib.sha256(
            json.dumps([_jsonable(a) for a in arguments], sort_keys=True).encode()
        ).hexdigest()[:16]
        known = self.stages().get(name)
        if known and known["fingerprint"] != fingerprint:
            raise Failed(
                f"stage {name!r} of {self.folder} was run with other arguments: start a new run in an empty folder"
            )
        return known, fingerprint

    def _carry_out(self, name: str, fingerprint: str, known: Mapping[str, Any] | None, work: Callable[[], Any]) -> Any:
        seconds_before = known["seconds"] if known else 0.0
        if known:
            # What setting up told will be told again.
            self._keep("events.jsonl", lambda row: row["stage"] != name or row["step"] > 0)
        started = time.monotonic()
        record = {"status": "running", "fingerprint": fingerprint, "seconds": seconds_before, "result": None}
        self._record(name, record)
        try:
            result = work()
        except BaseException:
            # A disk too full for the checkpoint is too full for this as well: the first error is the one to tell of.
            with suppress(Failed, OSError):
                self._record(name, {**record, "seconds": seconds_before + time.monotonic() - started})
            raise
        seconds = seconds_before + time.monotonic() - started
        self._record(name, {**record, "status": "done", "seconds": seconds, "result": result})
        return result

    @contextlib.contextmanager
    def tracked(self, names: Iterable[Name], config: Any) -> Iterator[None]:
        """Send what is logged to these trackers as well; tells at the end what could not be sent."""
        names = tuple(names) if self.ranks.is_main else ()
        self.trackers = [start(name, self.folder, config.model_dump(mode="json")) for name in names]
        try:
            yield
        finally:
            for name, tracker in zip(names, self.trackers, strict=True):
                tracker.close()
                if tracker.dropped:
                    why = f": {tracker.failure}" if tracker.failure else ": it fell behind"
                    self.event(
                        "run",
                        0,
                        "warning",
                        f"{name} did not take {tracker.dropped} rows{why}; metrics.jsonl has them all",
                    )
            self.trackers = []

    @contextlib.contextmanager
    def watched(self, watch: Watch, *, ends_at_alarm: bool = False) -> Iterator[None]:
        """Let `watch` see what is logged: what it tells becomes events, and how many alarms stand a number of the row.

        With `ends_at_alarm` an alarm (not a warning) raises Alarmed once it is written down, on every rank alike.
        """
        self.watch, self.ends_at_alarm = watch, ends_at_alarm
        try:
            yield
        finally:
            self.watch, self.ends_at_alarm = None, False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes would rewind each other's logs and checkpoints. The system lets go however a process ends."""
        with (self.folder / "manifest.json").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed(
                    f"another process is at work on {self.folder}: wait for its end, or stop it first"
                ) from error
            except OSError as error:
                # Some cluster file systems have no locks.
                if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                    raise
            yield

    def stop_if_asked(self, where: str) -> None:
        """For work that has nothing to save: raises Preempted where a signal has asked to stop."""
        if self.stop_requested:
            raise Preempted(f"stopped by {self.stop_requested} {where}; what is finished is kept")

    def asked_to_stop(self) -> str | None:
        """The signal that reached any rank: all of them must stop after the same step."""
        return next(filter(None, self.ranks.everyone(self.stop_requested)), None)

    def _record(self, name: str, record: Mapping[str, Any]) -> None:
        write_json(self.folder / "stages.json", {**self.stages(), name: record})

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Raises Failed where a number is not finite: a log cannot hold it, and a run that made it is broken."""
        if broken := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise Failed(f"{stage}, step {step}: {broken[0]} is {numbers[broken[0]]}")
        alarms: Sequence[Alarm] = ()
        if self.watch is not None:
            alarms = self.watch.see(stage, step, numbers)
            numbers = {**numbers, "alarms": self.watch.standing(stage)}
        for tracker in self.trackers:
            tracker.log({f"{stage}/{name}": value for name, value in numbers.items()}, step)
        self._append(
            "metrics.jsonl",
            {"stage": stage, "step": step, "time": round(time.monotonic() - self._started, 3), **numbers},
        )
        for alarm in alarms:
            self.event(stage, step, alarm.level, str(alarm))
        if self.ends_at_alarm and (grave := [alarm for alarm in alarms if alarm.level == "alarm"]):
            raise Alarmed(grave[0])

    def event(self, stage: str, step: int, level: Literal["info", "warning", "alarm"], message: str) -> None:
        self._append("events.jsonl", {"stage": stage, "step": step, "level": level, "message": message})
        self.progress.note(f"{level}: {message}" if level != "info" else message)

    def rewind(self, stage: str, step: int) -> None:
        """Forget what a killed process logged after the checkpoint that is being resumed from."""
        rows = self.ranks.first(self._forget, stage, step)
        if self.watch is not None:
            self.watch.recall(stage, rows)

    def _forget(self, stage: str, step: int) -> list[dict[str, Any]]:
        """What is left of the stage's metrics."""
        for name in ("metrics.jsonl", "events.jsonl"):
            self._keep(name, lambda row: row["stage"] != stage or row["step"] <= step)
        for path in (self.folder / "rollouts").glob(f"{stage}-*.jsonl"):
            if int(path.stem.rpartition("-")[2]) > step:
                path.unlink()
        path = self.folder / "metrics.jsonl"
        return [row for row in read_lines(path) if row["stage"] == stage] if path.is_file() else []

    def write_rows(self, relative: str, rows: Iterable[Mapping[str, Any]]) -> None:
        if not self.ranks.is_main:
            return
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))

    def write_json(self, relative: str, value: Any) -> None:
        if self.ranks.is_main:
            write_json(self.folder / relative, value)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if not self.ranks.is_main:
            return
        path = self.folder / name
        with _full_disk_named(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def _keep(self, name: str, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        path = self.folder / name
        if path.is_file():
            write_text(path, "".join(json.dumps(row) + "\n" for row in read_lines(path) if wanted(row)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a torn last line (a kill in the middle of a write) is left out.

    Raises ValueError, naming file and line, for one that is broken elsewhere.
    """
    *lines, _torn = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from error
    return rows


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, on disk before it has its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _full_disk_named(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """The system says neither which file had no room nor that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Failed(
            f"could not write {path}: {error.strerror}. What was written before is untouched: free some space, and resume"
        ) from error


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Run):
        return "run"
    return value


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of the checkout that postgrad runs from, with "+" where it has local changes; "unknown" outside one."""
    here = Path(__file__).parent
    try:
        named = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return named.stdout.strip() or "unknown"


def hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpu": _gpu()}


def _gpu() -> str | None:
    """Names of the GPUs as their driver tells them; asking torch would cost every command its import."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ", ".join(told.stdout.split("\n")).strip(", ") or None
