"""Tasks of a split, and the texts that solve or miss them.

Splits are disjoint twice over, as those of arithmetic.py are: a composition (family, kind and the steps' order) and a tuple of
constants each belong to one split by their hash, and a task has both from its split.

A draw whose output is almost the same for all inputs (a minimum clipped far above it) is no task.

What kernels are written in is a table of families, a reference and mistakes (`LANGUAGES`). The splits know nothing of it: a task of one
language is of the same split in the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from postgrad.domains.loops import triton
from postgrad.domains.loops.elementwise import ELEMENTWISE
from postgrad.domains.loops.matmul import MATMUL
from postgrad.domains.loops.norm import NORM
from postgrad.domains.loops.reduce import REDUCE
from postgrad.domains.loops.softmax import SOFTMAX
from postgrad.domains.loops.spec import TECHNIQUES, Family, Spec, Step
from postgrad.domains.loops.stencil import LINE, PLANE
from postgrad.domains.loops.task import Language, Task, inputs, oracle

Split = Literal["train", "test"]
Fails = Literal["build", "raises", "values", "bounds"]
FAMILIES: Mapping[str, Family] = {each.name: each for each in (ELEMENTWISE, REDUCE, SOFTMAX, NORM, MATMUL, LINE, PLANE)}


@dataclass(frozen=True, slots=True)
class Variant:
    """A right text for a task."""

    code: str
    tags: tuple[str, ...]
    """Techniques, in the order of the language's; of C++ the reference alone has none."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong text for a task, as people write them."""

    code: str
    tags: tuple[str, ...]
    """The techniques that it tried."""
    name: str
    fails: Fails
    """It does not build (or is no Python); it raises when it is called; it writes other values (at some size or distribution, or leaves some
    unwritten); it writes past the end of `out`."""


@dataclass(frozen=True, slots=True)
class Made:
    """A task with what it was made from."""

    task: Task
    spec: Spec

    @property
    def written(self) -> Written:
        return LANGUAGES[self.task.language]

    @property
    def family(self) -> Family:
        return self.written.families[self.task.family]


@dataclass(frozen=True, slots=True)
class Written:
    """Kernels in one language."""

    families: Mapping[str, Family]
    techniques: Mapping[str, str]
    reference: Callable[[Family, Spec], str]
    answers: bool
    """The reference is a kernel too."""
    slips: Callable[[Made, str], Iterable[tuple[str, Fails, str]]]
    """Mistakes in writing this text: (name, how it fails, the wrong text)."""


def split_of(key: str) -> Split:
    """Three quarters train; the same on every machine."""
    return "train" if hashlib.sha256(key.encode()).digest()[0] < 192 else "test"


def tasks(
    split: Split, count: int, *, seed: int, families: Sequence[str] | None = None, language: Language = "cpp"
) -> list[Made]:
    """`count` different tasks of a split, the families in turn; None: all that the language has.

    Raises ValueError for a family that there is not, and where a split has not that many.
    """
    known = LANGUAGES[language].families
    families = tuple(known) if families is None else families
    if not families or not known.keys() >= set(families):
        raise ValueError(f"families={list(families)}: want some of {', '.join(known)}, which language={language} has")
    rng = np.random.default_rng([seed, len(split)])
    made: dict[str, Made] = {}
    attempts = 0
    while len(made) < count:
        attempts += 1
        if attempts > 1000 + 200 * count:
            raise ValueError(
                f"found only {len(made)} different {split} tasks, {count} wanted: ask for fewer, or for more families"
            )
        family = known[families[len(made) % len(families)]]
        spec = family.draw(rng)
        composition = f"{family.name}: {spec.composition}"
        constants = " ".join(spec.all_constants)
        # A task without constants is of its composition's split.
        if split_of(composition) != split or (constants and split_of(f"constants {constants}") != split):
            continue
        one = Made(_task(family, spec, split, language), spec)
        if one.task.id not in made and _tells(one.task):
            made[one.task.id] = one
    return list(made.values())


def _tells(task: Task) -> bool:
    """Whether outputs differ enough, among themselves and between inputs, that no constant and no other's output passes for right."""
    first, other = (oracle(task, inputs(task, task.sizes[-2], "normal", seed)) for seed in (0, 1))
    scale = np.sqrt(np.mean(first**2))
    _, counts = np.unique(first, return_counts=True)
    return bool(first.std() > 0.05 * scale and np.std(first - other) > 0.05 * scale and counts.max() < 0.7 * first.size)


def _task(family: Family, spec: Spec, split: Split, language: Language) -> Task:
    names = ", ".join(each.name for each in spec.inputs)
    lines = "".join(f"    {line}\n" for line in (*family.python(spec), "return v"))
    constants = " ".join(spec.all_constants)
    return Task(
        id=f"{family.name}: {spec.composition} {constants}".strip(),
        family=family.name,
        dims=family.dims,
        inputs=spec.inputs,
        output=family.output_of(spec) if family.output_of else family.output,
        sizes=(*family.sizes, family.timed),
        timed=family.timed,
        quick=family.quick,
        reference=LANGUAGES[language].reference(family, spec),
        statement=f"def function(xp, {names}):\n{lines}",
        labels={
            "split": split,
            "family": family.name,
            "composition": spec.composition,
            "constants": constants,
            "difficulty": str(len(spec.steps)),
        },
        language=language,
    )


def variants(made: Made) -> list[Variant]:
    """Right texts, the reference first, then roughly from slow to fast; no text twice."""
    found = {made.task.reference: Variant(made.task.reference, ())}
    for style in made.family.styles(made.spec):
        code = made.family.write(made.spec, style)
        found.setdefault(code, Variant(code, tuple(tag for tag in made.written.techniques if tag in style)))
    return list(found.values())


def kernels(made: Made) -> list[Variant]:
    """Of the variants those that are right answers: a reference in PyTorch is no kernel."""
    return variants(made)[0 if made.written.answers else 1 :]


# ---- Mistakes -------------------------------------------------------------------------------------------------------

_EDITS: Sequence[tuple[str, Fails, str, str]] = (
    ("semicolon", "build", r"= in\[0\];", "= in[0]"),
    ("undeclared", "build", r"float\* (__restrict )?o = out;\n", ""),
    ("unclosed", "build", r"\}\n\Z", ""),
    # A sum that does not start at nothing, a maximum that starts above everything.
    ("start", "values", r"(float \w+|t\[[jk -]+\]|o\[[\w *+]+\]) = 0;", r"\1 = 1;"),
    ("start", "values", r"-__builtin_inff", "__builtin_inff"),
    ("inverse", "values", r"(float \w+) = 1 / ", r"\1 = "),
    ("tail", "values", r"for \(; j < C; j\+\+\) \{\n(?:.*\n)*?\}\n", ""),
    ("tail", "values", r"for \(; k < K; k\+\+\)(?: v|\n(?:#.*\n)?for).*\n", ""),
)
"""(name, how it fails, pattern, replacement), once in the text of a right variant."""


def mistakes(made: Made, variant: Variant) -> list[Mistake]:
    """What can go wrong in writing this variant, one of `kernels`; every one of them does fail."""
    edited = [*made.written.slips(made, variant.code)]
    style = frozenset(variant.tags)
    edited += [(name, "values", made.family.write(spec, style)) for name, spec in _wrong_specs(made)]
    return [Mistake(code, variant.tags, name, fails) for name, fails, code in edited if code != variant.code]


def _cpp_slips(made: Made, code: str) -> list[tuple[str, Fails, str]]:
    edited = [(name, fails, re.sub(pattern, new, code, count=1)) for name, fails, pattern, new in _EDITS]
    last = made.task.output[-1]
    index = "r" if last == "R" else "j" if last != made.task.output[0] or last == "C" else "i"
    # The loops over the output's last index end too early or too late.
    edited.append(("short", "values", code.replace(f"{index} < {last};", f"{index} < {last} - 1;")))
    edited.append(("overrun", "bounds", code.replace(f"{index} < {last};", f"{index} < {last} + 1;")))
    return edited


def _wrong_specs(made: Made) -> list[tuple[str, Spec]]:
    """What the task is when steps are swapped or forgotten, or a constant is misread; where that shows in the values."""
    spec = made.spec
    found = [(name, replace(spec, pre=wrong)) for name, wrong in _wrong_steps(spec.pre)]
    found += [(name, replace(spec, post=wrong)) for name, wrong in _wrong_steps(spec.post)]
    arrays = inputs(made.task, made.task.sizes[-3], "normal", 0)
    right = oracle(made.task, arrays)
    shown = []
    for name, wrong_spec in found:
        difference = oracle(_task(made.family, wrong_spec, "train", made.task.language), arrays) - right
        if np.abs(difference).max() > 0.05 * np.abs(right).max():
            shown.append((name, wrong_spec))
    return shown


def _wrong_steps(steps: tuple[Step, ...]) -> list[tuple[str, tuple[Step, ...]]]:
    found = []
    for place, step in enumerate(steps):
        before, after = steps[:place], steps[place + 1 :]
        if len(steps) > 1:
            found.append(("dropped", before + after))
        if step.constant:
            misread = replace(step, constant=f"{float(step.constant) + 0.5:.1f}")
            found.append(("constant", (*before, misread, *after)))
        if after:
            found.append(("swapped", (*before, after[0], step, *after[1:])))
    return found


# ---- Languages ------------------------------------------------------------------------------------------------------

LANGUAGES: Mapping[Language, Written] = {
    "cpp": Written(FAMILIES, TECHNIQUES, lambda family, spec: family.write(spec, frozenset()), True, _cpp_slips),
    "triton": Written(
        triton.FAMILIES,
        triton.TECHNIQUES,
        lambda family, spec: triton.reference(spec, family.python(spec)),
        False,
        lambda made, code: triton.slips(made.spec, code),
    ),
}
