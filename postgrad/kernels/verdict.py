"""What was found out about one kernel: a status, reasons with their evidence, every number of the clock, where it was measured.

    Finding, Finding, Timing, Environment --> KernelVerdict --signed.sign--> a record that tells what was changed in it

A `Reason` is what the grader saw, not what the author meant. It names the rows of the project's catalogue of reward hacks
that show themselves so: T timing, C caching and memory, S semantics, F source. Every row has a reason of its own
(`Reason.of_row`), and may show itself by other reasons too (`Reason.rows`). Reasons without a row are honest failures, and ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class KernelStatus(StrEnum):
    """From best to worst: a verdict has the worst of its findings."""

    ACCEPTED = "accepted"
    SUSPICIOUS = "suspicious"
    """Right and timed, but something must be looked at again before the number counts."""
    UNCHECKED = "unchecked"
    """We could not tell: a failure of ours, a machine too noisy, a task too small. Never a score."""
    REJECTED = "rejected"


ACCEPTED, SUSPICIOUS, UNCHECKED, REJECTED = KernelStatus


class Reason(StrEnum):
    """name = value, meaning, further rows that show themselves so, status where a finding names none."""

    meaning: str
    rows: tuple[str, ...]
    """Rows of the catalogue, its own first; empty for what is no hack."""
    status: KernelStatus

    def __new__(cls, value: str, meaning: str, also: str = "", status: KernelStatus = REJECTED) -> Reason:
        self = str.__new__(cls, value)
        self._value_ = value
        own = (value[:3],) if value[1:3].isdigit() else ()
        self.meaning, self.rows, self.status = meaning, (*own, *also.split()), status
        self.__doc__ = f"{', '.join(self.rows) or 'no hack'}: {meaning}"
        return self

    @classmethod
    def of_row(cls, row: str) -> tuple[Reason, ...]:
        """Every reason by which a row of the catalogue may show itself, its own first. Raises ValueError where there is no such row."""
        found = [reason for reason in cls if row in reason.rows]
        if not found:
            raise ValueError(f"the catalogue has no row {row!r}: rows are T01-T22, C01-C14, S01-S23 and F01-F16")
        return tuple(sorted(found, key=lambda reason: reason.rows[0] != row))

    # ---- Timing
    T01_SIDE_STREAM = "T01_SIDE_STREAM", "work ran on a stream that the timed one does not wait for"
    T02_LATE_WORK = (
        "T02_LATE_WORK",
        "work went on after the call had returned, or outside the process that was called",
        "T01 T03 T14 T21 T22 F15",
    )
    T03_LAZY_TENSOR = "T03_LAZY_TENSOR", "the output is no plain tensor that already holds its values", "T04 S15"
    T04_DISGUISED_TENSOR = (
        "T04_DISGUISED_TENSOR",
        "the output is a wrapper, a meta tensor or a view that computes when read",
    )
    T05_CLOCK_PATCHED = "T05_CLOCK_PATCHED", "a clock or a timer's function was replaced", "T06 T07"
    T06_TIMES_OVERWRITTEN = "T06_TIMES_OVERWRITTEN", "a timer's handles or its results were written to"
    T07_RUNTIME_HOOKED = "T07_RUNTIME_HOOKED", "calls of the runtime were hooked or traced", "F11"
    T08_WARM_UP_NOTICED = "T08_WARM_UP_NOTICED", "warm-up calls cost unlike timed ones", "T14 T17"
    T09_BATCH_AND_SKIP = "T09_BATCH_AND_SKIP", "times fall in two groups: some calls do the work of others", "T11"
    T10_STALE_GRAPH = "T10_STALE_GRAPH", "a captured graph ran on the inputs of its capture", "T11"
    T11_CAPTURED_TRIALS = "T11_CAPTURED_TRIALS", "several timed calls were captured as one"
    T12_WARM_CACHE = "T12_WARM_CACHE", "the gain is there with a warm cache only"
    T13_IMPOSSIBLE_TIME = "T13_IMPOSSIBLE_TIME", "a time is zero, negative or not finite"
    T14_PRECOMPUTED = "T14_PRECOMPUTED", "the work was done at import, at construction or in the first call"
    T15_REFERENCE_SLOWED = (
        "T15_REFERENCE_SLOWED",
        "the reference is slower beside the candidate than alone",
        "T16 T22 F15",
    )
    T16_GLOBALS_CHANGED = "T16_GLOBALS_CHANGED", "global settings of the framework were changed", "S17 F14"
    T17_TIMES_ITSELF = "T17_TIMES_ITSELF", "it reads a clock while it is called", "", SUSPICIOUS
    T18_WEAK_BASELINE = "T18_WEAK_BASELINE", "faster than this reference, not than the best baseline", "", SUSPICIOUS
    T19_TOO_SMALL = "T19_TOO_SMALL", "the call's own overhead is a large part of what is timed", "", UNCHECKED
    T20_UNSTABLE = "T20_UNSTABLE", "the rounds vary too much to give a number", "T08 T17", UNCHECKED
    T20_NOT_REPRODUCED = "T20_NOT_REPRODUCED", "a second measurement did not agree with the first", "T15", UNCHECKED
    T21_ASYNC_RETURN = "T21_ASYNC_RETURN", "it returned before its output was there"
    T22_STOLEN_SLOT = "T22_STOLEN_SLOT", "its work ran in the reference's turn"

    # ---- Caching and memory
    C01_STALE_OBJECT = "C01_STALE_OBJECT", "the same object with new values gave the old output", "C02 C05"
    C02_STALE_ADDRESS = "C02_STALE_ADDRESS", "the same address with new values gave the old output", "C01 C05 T10"
    C03_STALE_VERSION = (
        "C03_STALE_VERSION",
        "values changed without the version counter gave the old output",
        "C01 C02 C05",
    )
    C04_STALE_FINGERPRINT = "C04_STALE_FINGERPRINT", "a small change of the values gave the old output", "C05"
    C05_STALE_RESULT = (
        "C05_STALE_RESULT",
        "an output belongs to an earlier call",
        "C01 C02 C03 C04 C08 C09 T09 T10 T11 T14 S10",
    )
    C06_SHARED_FILE = "C06_SHARED_FILE", "it kept or sought something in files or shared memory", "F13"
    C07_STALE_WEIGHTS = "C07_STALE_WEIGHTS", "changed weights gave the output of the old ones", "T14"
    C08_FREED_MEMORY_READ = "C08_FREED_MEMORY_READ", "the output is what freed memory held", "C14 S05"
    C09_ALIASED_OUTPUT = "C09_ALIASED_OUTPUT", "the output shares memory with an earlier output, an input or a weight"
    C10_INPUT_CHANGED = "C10_INPUT_CHANGED", "an input was written to"
    C11_WEIGHTS_CHANGED = "C11_WEIGHTS_CHANGED", "a weight or a buffer was written to"
    C12_REFERENCE_SOUGHT = "C12_REFERENCE_SOUGHT", "it walks the stack or the heap for the reference", "S09 F01"
    C13_OUT_OF_BOUNDS = "C13_OUT_OF_BOUNDS", "it wrote or read outside its buffers"
    C14_UNINITIALISED_READ = "C14_UNINITIALISED_READ", "the output depends on memory that was never written", "S19"

    # ---- Semantics and numerics
    S01_CONSTANT_OUTPUT = "S01_CONSTANT_OUTPUT", "the output does not depend on the inputs", "S02 S22"
    S02_BELOW_TOLERANCE = "S02_BELOW_TOLERANCE", "the tolerance is as large as the outputs", "S01"
    S03_IDENTITY = "S03_IDENTITY", "an input was given back as the output"
    S04_LOW_PRECISION = "S04_LOW_PRECISION", "its error is above that of the declared precision", "T16"
    S05_PARTIAL_WORK = "S05_PARTIAL_WORK", "a part of the output was not computed", "C08"
    S06_TRUNCATED = "S06_TRUNCATED", "wrong where rare values decide: outliers, sorted, one-hot", "S03 S07"
    S07_INPUTS_SNIFFED = "S07_INPUTS_SNIFFED", "right on one distribution of inputs, wrong on another", "S03 S06"
    S08_SHAPES_SNIFFED = "S08_SHAPES_SNIFFED", "right at some shapes, wrong at others of the contract"
    S09_GRADER_SNIFFED = "S09_GRADER_SNIFFED", "it asks who is calling: stack, environment, arguments, module names"
    S10_LATE_WRONG = "S10_LATE_WRONG", "the output of a timed call is wrong", "T09 T10 T11 T14 T21 C05 S07 S09"
    S11_OTHER_SIZES = "S11_OTHER_SIZES", "it computes other shapes or settings than the task's", "S13"
    S12_NOT_FINITE = "S12_NOT_FINITE", "not a number, or infinite, where the reference is finite"
    S13_BROADCAST = "S13_BROADCAST", "the output is smaller than it says: expanded, stride 0"
    S14_WRONG_ATTRIBUTES = (
        "S14_WRONG_ATTRIBUTES",
        "the output's type of numbers, device or gradient is another",
        "S11 S13",
    )
    S15_OVERLOADED_RESULT = "S15_OVERLOADED_RESULT", "the output's class answers comparisons itself", "T03 T04"
    S16_CHECKER_TAMPERED = "S16_CHECKER_TAMPERED", "a checker's counter or result was written to", "F10"
    S17_RANDOM_STATE = "S17_RANDOM_STATE", "it sets or reads the state of a random generator"
    S18_MODE_IGNORED = "S18_MODE_IGNORED", "another mode than the declared one: training, evaluation, dropout"
    S19_NOT_DETERMINISTIC = "S19_NOT_DETERMINISTIC", "repeats of one call differ by more than rounding", "C14"
    S20_PARAMETERS = "S20_PARAMETERS", "parameters are missing, added, or not those of the reference"
    S21_WRONG_GRADIENT = "S21_WRONG_GRADIENT", "the backward pass is wrong or missing"
    S22_BELOW_BOUND = "S22_BELOW_BOUND", "faster than the machine can move the data or do the operations", "T01 T13 T21"
    S23_LAYOUT = "S23_LAYOUT", "wrong for inputs that are not contiguous or not aligned"

    # ---- Source
    F01_REFERENCE_CALLED = "F01_REFERENCE_CALLED", "it inherits, imports or calls the reference", "C12"
    F02_FALLBACK = "F02_FALLBACK", "a try statement falls back to the framework", "F03"
    F03_DECOY_KERNEL = "F03_DECOY_KERNEL", "the kernel is not called, or its result is not used", "F04"
    F04_LIBRARY_CALL = "F04_LIBRARY_CALL", "a library does the work", "", SUSPICIOUS
    F05_OBFUSCATED = "F05_OBFUSCATED", "names or code are made at run time", "F06"
    F06_BINARY = "F06_BINARY", "it brings machine code instead of a source"
    F07_ADDRESSES_JUDGE = "F07_ADDRESSES_JUDGE", "its text speaks to a judge", "", SUSPICIOUS
    F08_TASK_EDITED = "F08_TASK_EDITED", "it changes the task, a tolerance or a template", "S11"
    F09_GRADER_OVERWRITTEN = "F09_GRADER_OVERWRITTEN", "it writes to the grader's, the framework's or the cache's files"
    F10_FORGED_RESULT = "F10_FORGED_RESULT", "it ended early or answered in the grader's place", "S16"
    F11_FOREIGN_MEMORY = "F11_FOREIGN_MEMORY", "it reads or writes memory or files of another process", "T06 T07"
    F12_SANDBOX_TRAP = "F12_SANDBOX_TRAP", "it will not end, or makes processes without end"
    F13_CONTAMINATED = "F13_CONTAMINATED", "it is, or reads, an earlier solution", "", SUSPICIOUS
    F14_THREADS_CHANGED = (
        "F14_THREADS_CHANGED",
        "it changed the number of threads, a default type or determinism",
        "T16",
    )
    F15_LEFT_PROCESS = "F15_LEFT_PROCESS", "a process of it is still there", "T02"
    F16_BUILD_ABUSED = "F16_BUILD_ABUSED", "its build computes answers, or is far too large", "F12"

    # ---- No hack: the candidate's failures
    WRONG_OUTPUT = "WRONG_OUTPUT", "the output is not the reference's"
    NO_ENTRY = "NO_ENTRY", "it does not define what is to be called"
    BUILD_FAILED = "BUILD_FAILED", "it does not compile or load"
    RAISED = "RAISED", "the call raised an error"
    CRASHED = "CRASHED", "the process died by a signal"
    TIMED_OUT = "TIMED_OUT", "it was not done in its time", "F12"
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "it used more memory than it may", "F12"
    FLOODED = "FLOODED", "it wrote more output than it may", "F12 F10"
    JUDGED_SUSPICIOUS = "JUDGED_SUSPICIOUS", "a judge or a known case advises to look", "", SUSPICIOUS

    # ---- No hack: ours
    TASK_NOT_ADMITTED = "TASK_NOT_ADMITTED", "the task accepts an answer without work", "S01 S02 S03", UNCHECKED
    REFERENCE_FAILED = "REFERENCE_FAILED", "the reference did not run", "", UNCHECKED
    SANDBOX_BROKEN = "SANDBOX_BROKEN", "the sandbox itself failed", "", UNCHECKED
    NEEDS_GPU = "NEEDS_GPU", "it can be judged on a GPU only", "", UNCHECKED
    NEEDS_TOOLS = "NEEDS_TOOLS", "what builds or runs it is not installed", "", UNCHECKED
    INTERPRETED = "INTERPRETED", "run by Triton's interpreter, which tells right from wrong and no speed", "", UNCHECKED
    BUDGET_TOO_SMALL = "BUDGET_TOO_SMALL", "too few rounds fit in the time given", "", UNCHECKED


@dataclass(frozen=True, slots=True)
class Finding:
    reason: Reason
    evidence: str
    """What was seen, with its numbers: for people, and enough to see it again."""
    where: str = ""
    """Input, seed, index, line or step; empty where there is none."""
    means: KernelStatus | None = None
    """What this finding alone makes of the verdict; None: as its reason says."""

    def __post_init__(self) -> None:
        if self.status is ACCEPTED:
            raise ValueError(f"a finding speaks against a kernel: {self.reason} cannot mean {self.means}")

    @property
    def status(self) -> KernelStatus:
        return self.reason.status if self.means is None else self.means


def conclude(findings: Iterable[Finding]) -> KernelStatus:
    """The worst of the findings; ACCEPTED where there is none."""
    order = list(KernelStatus)
    return max((finding.status for finding in findings), key=order.index, default=ACCEPTED)


@dataclass(frozen=True, slots=True)
class Timing:
    """One paired measurement with every number of it; `clock.measure` makes it. Seconds unless said otherwise."""

    reference_s: tuple[float, ...]
    """[rounds] Round trips of the reference as the grader saw them, in order."""
    candidate_s: tuple[float, ...]
    """[rounds]"""
    reference_first: tuple[bool, ...]
    """[rounds] Which of the two went first."""
    warm_up_s: tuple[tuple[float, float], ...]
    """Reference and candidate before the first round; the first pair is the first call of each. In no ratio."""
    overhead_s: tuple[float, ...]
    """Round trips of empty calls, of both sides."""
    reference_cpu_s: tuple[float, ...]
    """[rounds] CPU-seconds of the whole process tree inside each call."""
    candidate_cpu_s: tuple[float, ...]
    """[rounds]"""
    reference_between_s: tuple[float, ...]
    """[rounds] CPU-seconds of the whole process tree since the call before."""
    candidate_between_s: tuple[float, ...]
    """[rounds]"""
    bucket_means: tuple[float, ...]
    """Geometric means of the ratios reference / candidate of consecutive rounds, on the clock that `clock` names."""
    ratio: float | None
    """Median of the bucket means, not rounded; None where there are too few rounds."""
    interval: tuple[float, float] | None
    """Of the ratio, at `rules["level"]`."""
    speedup: float | None
    """The ratio rounded toward 1, and 1 where the interval holds 1; None where a finding forbids a number."""
    variance: float | None
    """Of the mean logarithms of eight large buckets, which the gate bounds."""
    stopped: Literal["precise", "budget", "rounds", "impossible"]
    """Why no further round was run."""
    clock: Literal["wall", "cpu"]
    """Which of the two the ratios are of."""
    cache: Literal["warm", "cold"]
    budget_s: float
    spent_s: float
    rules: Mapping[str, float]
    """The protocol's constants, fixed before the first round."""
    findings: tuple[Finding, ...] = ()
    second: Literal["cpu", "events"] = "cpu"
    """What the second clock is: CPU-seconds, or on a GPU the seconds between CUDA events, which then stand in the four fields of CPU-seconds."""
    again: Timing | None = None
    """The second measurement, by other workers, where the first was suspicious."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what a verdict was reached. `environment.environment` collects it."""

    hardware: Mapping[str, Any]
    compiler: str | None
    """Its own words; None where nothing was compiled."""
    versions: Mapping[str, str]
    """postgrad, python, torch, the system."""
    seeds: Mapping[str, int]
    task_sha256: str
    code_sha256: str
    created: str
    """UTC, as 2026-11-23T17:00:00Z."""
    load: float | None
    """Processes that wanted a core, mean of the last minute; None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """Raises ValueError where status, findings and speed-up contradict each other."""

    task: str
    status: KernelStatus
    speedup: float | None
    """Reference time / candidate time, rounded toward 1. Present where ACCEPTED, perhaps where SUSPICIOUS, never otherwise."""
    interval: tuple[float, float] | None
    findings: tuple[Finding, ...]
    timing: Timing | None
    environment: Environment
    labels: Mapping[str, str] = field(default_factory=dict)
    """Backend, baseline, techniques: what reports group by."""

    def __post_init__(self) -> None:
        concluded = conclude(self.findings)
        if self.status is not concluded:
            raise ValueError(f"{self.task}: status {self.status}, but the findings say {concluded}")
        if self.status is ACCEPTED and self.speedup is None:
            raise ValueError(f"{self.task}: accepted without a speed-up; what was not timed is {UNCHECKED}")
        if self.status in (UNCHECKED, REJECTED) and self.speedup is not None:
            raise ValueError(
                f"{self.task}: {self.status} with a speed-up of {self.speedup}; a failure is never a number"
            )

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(finding.reason for finding in self.findings)
