"""What a model is asked and how it answers: the protocol of CUDA-L1 (arXiv 2507.14111, contrastive prompt), short enough for a small model.

Plain: the reference. Contrastive: the reference, and earlier codes with their speed-ups. Answers end with the code, under the
heading and in the fence of the article; before it, where codes were given, one line that compares them and one that plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postgrad.domains.loops.generate import Made, Variant
from postgrad.domains.loops.task import Language, Task
from postgrad.records import Message, Problem

ANALYSIS = "## Performance Analysis\n"
DESIGN = "## Algorithm Design\n"
IMPLEMENTATION = "## Code Implementation\n"
PLAIN = "Write a faster kernel.\n"
CONTRASTIVE = "Compare the codes, then write a faster one.\n"
FENCES: Mapping[Language, str] = {"cpp": "cpp", "triton": "python"}
"""What a code block says that it holds."""


def problem(made: Made) -> Problem:
    """The plain prompt; gold is the reference."""
    return Problem(made.task.id, plain(made.task), gold=made.task.reference, labels=made.task.labels)


def plain(task: Task) -> tuple[Message, ...]:
    return (Message("user", f"{PLAIN}Reference:\n{fenced(task.reference, task.language)}"),)


def contrastive(task: Task, scored: Sequence[tuple[str, float]]) -> tuple[Message, ...]:
    """The prompt with earlier codes and their speed-ups over the reference, in the order given.

    Raises ValueError without any.
    """
    if not scored:
        raise ValueError("scored=[]: a contrastive prompt needs at least one earlier code; `plain` has none")
    codes = "".join(
        f"\nCode {place} ran at {speedup:.2f}x:\n{fenced(code, task.language)}"
        for place, (code, speedup) in enumerate(scored, start=1)
    )
    return (Message("user", f"{CONTRASTIVE}Reference:\n{fenced(task.reference, task.language)}{codes}"),)


def answer(code: str, language: Language = "cpp") -> str:
    """To a plain prompt."""
    return f"{IMPLEMENTATION}{fenced(code, language)}"


def compared(scored: Sequence[tuple[Variant, float]], better: Variant, language: Language = "cpp") -> str:
    """To a contrastive prompt of these variants: which is fastest and by which techniques, what `better` adds, its code."""
    fastest = max(range(len(scored)), key=lambda place: scored[place][1])
    used = scored[fastest][0].tags
    lacking = [tag for tag in better.tags if tag not in used]
    analysis = f"Code {fastest + 1} is faster. It uses: {_listed(used)}. It lacks: {_listed(lacking)}.\n"
    return f"{ANALYSIS}{analysis}{DESIGN}Use: {_listed(better.tags)}.\n{answer(better.code, language)}"


def fenced(code: str, language: Language = "cpp") -> str:
    """A code block; the code ends with a line's end."""
    return f"```{FENCES[language]}\n{code}```"


def _listed(tags: Sequence[str]) -> str:
    return ", ".join(tags) if tags else "nothing"
