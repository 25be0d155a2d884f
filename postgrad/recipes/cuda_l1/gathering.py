"""The stage gather: several samplers are asked for faster kernels until enough are right; what SFT reads is written from those.

Every attempt is kept in archives/gather.sqlite; the rows are data/sft.jsonl and, of validation tasks, data/sft_validation.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from postgrad.protocols import Sampler
from postgrad.recipes.cuda_l1.asking import evolving
from postgrad.recipes.cuda_l1.judging import judge
from postgrad.recipes.cuda_l1.settings import Config
from postgrad.recipes.cuda_l1.tasks import Tasks, prepared
from postgrad.records import Example, Graded, write_jsonl
from postgrad.run import Failed, Run


def gather(config: Config, run: Run) -> dict[str, Any]:
    """Ask every sampler about every task until enough is right; keep every attempt, and write the rows of SFT."""
    from postgrad.kernels import archive
    from postgrad.kernels.gather import successes, until_right

    wanted = config.gather
    known = prepared(config, run)
    asked = [*known.splits["train"][: wanted.tasks], *known.splits["validation"]]
    kept: dict[str, list[Graded]] = {problem.id: [] for problem in asked}
    counts: dict[str, Any] = {}
    with (
        judge(config, run, known, "gather") as verifier,
        archive.opened(run.folder / "archives" / "gather.sqlite") as codes,
        _samplers(config, run, known) as samplers,
    ):
        codes.forget(0)
        keeper = evolving(config, run, known, codes, "nothing", "gather")
        for number, (name, sampler) in enumerate(samplers.items()):
            run.progress.start(f"gather {name}", len(asked), "task")
            attempts = until_right(
                sampler, asked, verifier, known.parse, keep=wanted.keep, tries=wanted.tries, asked=_gathering(run)
            )
            keeper.start_with([item for row in attempts for item in row], name, number)
            found = [successes(row, known.parse) for row in attempts]
            for row in found:
                for item in row[: wanted.keep]:
                    kept[item.problem.id].append(item)
            counts[name] = {
                "tries": sum(map(len, attempts)),
                **Counter(str(item.verdict.status) for row in attempts for item in row),
                "kept": sum(min(len(row), wanted.keep) for row in found),
            }
            run.progress.finish()
    rows = {
        split: _rows(config, known, [kept[one.id] for one in known.splits[split] if one.id in kept])
        for split in ("train", "validation")
    }
    if not rows["train"]:
        raise Failed(
            "no sampler wrote a kernel that is right: look into archives/gather.sqlite, and give others in gather"
        )
    write_jsonl(run.folder / "data" / "sft.jsonl", rows["train"])
    write_jsonl(run.folder / "data" / "sft_validation.jsonl", rows["validation"])
    return {"samplers": counts, "sft": len(rows["train"]), "sft_validation": len(rows["validation"])}


@contextmanager
def _samplers(config: Config, run: Run, known: Tasks) -> Iterator[dict[str, Sampler]]:
    """By name. Scripted teachers, and endpoints whose answers are kept in calls.sqlite, so that none is paid for twice."""
    from postgrad.domains import loops
    from postgrad.sample import calls
    from postgrad.sample.api import ApiSampler
    from postgrad.sample.api import Endpoint as Address

    made = list(known.made.values())
    asked: dict[str, Sampler] = {}
    for name in config.gather.teachers:
        # Their traces are trained on as text, so no token is needed.
        asked[name] = loops.Teacher(name, made, lambda _: (), seed=config.seed)
    with ExitStack() as stack:
        if config.gather.endpoints:
            store = stack.enter_context(calls.opened(run.folder / "calls.sqlite"))
        for one in config.gather.endpoints:
            parameters = {"max_tokens": one.max_tokens, "temperature": one.temperature}
            asked[one.name] = ApiSampler(
                Address(one.url, one.name, parameters, one.key_variable), store, seed=config.seed
            )
        yield asked


def _gathering(run: Run) -> Callable[[int], None]:
    def told(done: int) -> None:
        run.stop_if_asked("while gathering")
        run.progress.update(done)

    return told


def _rows(config: Config, known: Tasks, kept: Sequence[Sequence[Graded]]) -> list[Example]:
    """Each success to the plain prompt; of loops, comparisons of gathered codes too."""
    from postgrad.domains.loops import rows
    from postgrad.evals import speed

    made = [
        Example(item.problem.prompt, item.trace.text, id=f"{item.problem.id} {number}")
        for group in kept
        for number, item in enumerate(group)
    ]
    if config.data.loops is not None:
        how: dict[str, Any] = {"most": config.contrast.exemplars, "seed": config.seed}
        for group in filter(None, kept):
            speedups = {
                str(known.parse(item.trace.text)): score for item in group if (score := speed.speedup(item)) is not None
            }
            task = known.made[group[0].problem.id]
            made += rows.measured(task, speedups, config.data.loops.compared, **how)
    return made
