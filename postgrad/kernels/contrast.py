"""The contrastive prompt and its parser (CUDA-L1, arXiv 2507.14111, section 3.2).

Plain reinforcement learning uses a score in the gradient alone. Here the model reads earlier codes with their scores, says
why one is faster than another, and writes the next. Six blocks in the paper's order, in our words:

    a  role and task    b  the reference    c  earlier codes with their speed-ups, slowest first
    d  the protocol: three sections under headings of exactly two hashes
    e  what is required    f  what is forbidden

Without exemplars (best-of-N) block c and what speaks of it are left out. The paper's word limits are not published; ours are
arguments. Blocks e and f name what the evaluator rejects, so that an honest model is not trapped by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from postgrad.kernels.candidate import Backend
from postgrad.kernels.exemplars import Exemplar
from postgrad.kernels.task import Task
from postgrad.records import Message

ANALYSIS, DESIGN, CODE = "Performance Analysis", "Algorithm Design", "Code Implementation"


@dataclass(frozen=True, slots=True)
class Language:
    """How a backend is spoken of, and how its files are written."""

    backend: Backend
    expert: str
    what: str
    """What is to be written."""
    machine: str
    fence: str
    suffix: str
    comment: str


LANGUAGES: Mapping[Backend, Language] = {
    one.backend: one
    for one in (
        Language("torch", "PyTorch performance", "PyTorch module", "modern NVIDIA GPUs and CPUs", "python", ".py", "#"),
        Language("triton", "Triton kernel", "module with Triton kernels", "modern NVIDIA GPUs", "python", ".py", "#"),
        Language("cuda", "CUDA kernel", "module with CUDA kernels", "modern NVIDIA GPUs", "python", ".py", "#"),
        Language("cpp", "C++ performance", "C++ kernel", "x86-64 CPUs with g++", "cpp", ".cpp", "//"),
    )
}


def prompt(
    task: Task,
    exemplars: Sequence[Exemplar],
    backend: Backend,
    *,
    analysis_words: int = 200,
    design_words: int = 300,
) -> tuple[Message, ...]:
    """One user message. The words are asked for, never counted."""
    language = LANGUAGES[backend]
    blocks = [
        _task(language, bool(exemplars)),
        f"# Reference implementation\n\n{fenced(task.source, task.kind)}",
        *([_earlier(exemplars, language, task)] if exemplars else []),
        _protocol(language, analysis_words, design_words, bool(exemplars)),
        f"""# Requirements

- The result must equal the reference's for every input of the declared shapes and types, or the score is 0.
- It must build and run on {language.machine}.
- {_interface(language, task)}""",
        """# Restrictions

- Do the full work in every call: no caching, no reuse of results, outputs or inputs of earlier calls.
- Keep the hyper-parameters (batch size, dimensions, precision and all others) as in the reference.
- All work has ended when the call returns; nothing measures or tells the time, and nothing outside is changed.""",
    ]
    return (Message("user", "\n\n".join(blocks) + "\n"),)


def fenced(code: str, language: str) -> str:
    """A code block whose fence is longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def _task(language: Language, contrastive: bool) -> str:
    compare = (
        " Earlier implementations are given with their measured speed-ups over the reference. Compare them, find what makes the "
        "fast ones fast, and use the insight to write one that is faster than all."
    )
    return (
        f"You are an expert in {language.expert} optimisation. Write a {language.what} that runs faster than the reference below "
        f"and does exactly the same.{compare if contrastive else ''}"
    )


def _earlier(exemplars: Sequence[Exemplar], language: Language, task: Task) -> str:
    parts = ["# Previous implementations with scores"]
    for number, one in enumerate(exemplars, start=1):
        named = " (the reference)" if one.place is None else ""
        fence = task.kind if one.place is None else language.fence
        parts.append(f"Implementation {number}{named}, speed-up {one.score:.2f}x:\n\n{fenced(one.code, fence)}")
    return "\n\n".join(parts)


def _interface(language: Language, task: Task) -> str:
    if language.backend != "cpp":
        return f"Define `{task.wanted}` with the arguments and results of the reference's `{task.entry}`."
    same = (
        "as the reference does" if task.kind == "cpp" else "in the reference's order, then its parameters and buffers"
    )
    return (
        'Define `extern "C" void kernel(const float* const* in, float* out, const long* n)`: `in` holds the inputs '
        f"{same}, contiguous and row-major; all of `out` is to be written; `n` holds the lengths of every input's dimensions in order"
        f"{', or what the reference takes them for' if task.kind == 'cpp' else ''}."
    )


def _protocol(language: Language, analysis_words: int, design_words: int, contrastive: bool) -> str:
    first = "which implementation is faster and why; " if contrastive else ""
    return f"""# Answer

Answer in three sections, under exactly these headings of two hashes:

## {ANALYSIS}
At most {analysis_words} words: {first}which strategies look most promising; what limits the speed; which optimisation techniques are not used yet; where the largest gains are.

## {DESIGN}
At most {design_words} words: the plan of your implementation.

## {CODE}
The complete {language.what} in one code block, opened by ```{language.fence} and closed by ```."""


class NoCode(Enum):
    """An answer that holds no code: the model's fault, so a reward of 0 and a verdict of no answer. No string, as a code is one."""

    NO_HEADING = "no_heading"
    """None of its lines is `## Code Implementation`."""
    NO_BLOCK = "no_block"
    """No code block beneath that heading."""
    UNCLOSED = "unclosed"
    """The last block never ends, as in an answer cut at its longest length."""
    EMPTY = "empty"


def parse(answer: str) -> str | NoCode:
    """The last code block beneath the third heading, without its fences.

    Headings count outside of code blocks alone. Where the heading comes again (a model that thinks aloud first) the last one
    counts; its section ends at the next heading of one or two hashes. Fences as in CommonMark: three or more backticks or tildes,
    closed by as many or more of the same.
    """
    blocks: list[str] | None = None
    inside = False
    fence: str | None = None
    lines: list[str] = []
    # Not splitlines(), which would also divide code at form feeds and the like.
    for line in answer.replace("\r\n", "\n").split("\n"):
        if fence is not None:
            if not re.fullmatch(rf" {{0,3}}{fence[0]}{{{len(fence)},}}\s*", line):
                lines.append(line)
                continue
            fence = None
            if inside and blocks is not None:
                blocks.append("\n".join(lines))
        elif opening := re.match(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})", line):
            fence, lines = opening[1], []
        elif heading := re.fullmatch(r"(#{1,2})\s+(.+?)\s*", line):
            inside = heading[1] == "##" and heading[2].rstrip(":").casefold() == CODE.casefold()
            blocks = [] if inside else blocks
    if blocks is None:
        return NoCode.NO_HEADING
    if inside and fence is not None:
        return NoCode.UNCLOSED
    if not blocks:
        return NoCode.NO_BLOCK
    return blocks[-1] if blocks[-1].strip() else NoCode.EMPTY
