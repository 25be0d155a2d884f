"""What a run works on: tasks made by postgrad/domains/loops or read in KernelBench's form, their prompts, and the stage data that admits them.

Tasks are made anew from the config wherever a stage needs them; data/{train,validation,test}.jsonl says which were admitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from postgrad import wiring
from postgrad.recipes.cuda_l1.settings import Config, KernelBench, Loops
from postgrad.records import Message, Problem, write_jsonl
from postgrad.run import Run


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a run works on, made anew from the config wherever it is needed."""

    tasks: Mapping[str, Any]
    """Problem's id -> kernels.task.Task."""
    splits: Mapping[str, list[Problem]]
    """train, validation, test; prompts are the plain ones, gold is the reference."""
    write: Callable[[Problem, Sequence[Any]], tuple[Message, ...]]
    """The prompt that shows these exemplars."""
    parse: Callable[[str], str | None]
    backend: Literal["torch", "triton", "cuda", "cpp"]
    made: Mapping[str, Any] = field(default_factory=dict)
    """Of loops: problem's id -> what it was made from, those that are only read among them."""


def check_machine(config: Config) -> None:
    """Raises ValueError where this machine lacks what kernels are run with."""
    from postgrad.kernels import runtime
    from postgrad.kernels.candidate import Candidate

    lacking = runtime.refusal(Candidate("", config.data.backend), config.judging.gpu)
    if lacking is not None:
        raise ValueError(f"{config.data.backend} kernels with judging.gpu={config.judging.gpu}: {lacking.evidence}")


def tasks_of(config: Config) -> Tasks:
    """Raises ValueError for families that there are not, too many tasks, a folder without tasks."""
    if config.data.loops is not None:
        return _loops(config, config.data.loops)
    assert config.data.kernel_bench is not None, "Data has exactly one source"
    return _kernel_bench(config.data.kernel_bench)


def prepared(config: Config, run: Run) -> Tasks:
    """Those that were admitted."""
    splits = {name: wiring.problems(run, name) for name in ("train", "validation", "test")}
    return replace(tasks_of(config), splits=splits)


def prepare(config: Config, run: Run) -> dict[str, Any]:
    """Make or read the tasks and admit them; write data/{train,validation,test}.jsonl and return the counts."""
    known = tasks_of(config)
    tokenizer = wiring.tokenizer(config.model, own_tokenizer(config))
    everything = [problem for split in known.splits.values() for problem in split]
    longest = max(len(_prompt_ids(tokenizer, problem)) for problem in everything)
    # A shown code is an accepted answer or the reference, which is part of the plain prompt.
    most = longest + config.contrast.exemplars * config.rl.max_completion_length
    if config.contrast.strategy != "nothing" and most > config.rl.max_prompt_length:
        raise ValueError(
            f"a contrastive prompt may have {most} tokens (a task of {longest}, and {config.contrast.exemplars} codes of at most "
            f"{config.rl.max_completion_length}): raise rl.max_prompt_length={config.rl.max_prompt_length} to that"
        )
    wiring.check_prompts(config.self_supervised, known.splits["train"], tokenizer)
    for name, stage in (("self_supervised", config.self_supervised), ("rl", config.rl)):
        if len(known.splits["train"]) < stage.prompts_per_step:
            raise ValueError(
                f"{len(known.splits['train'])} training tasks are fewer than {name}.prompts_per_step={stage.prompts_per_step}"
            )
    refused = admission(config, run, known)
    for name, why in refused.items():
        run.event("data", 0, "warning", f"task {name!r} is left out: {why}")
    splits = {name: [one for one in rows if one.id not in refused] for name, rows in known.splits.items()}
    folder = run.folder / "data"
    folder.mkdir(exist_ok=True)
    for split, problems in splits.items():
        write_jsonl(folder / f"{split}.jsonl", problems)
    (run.folder / "archives").mkdir(exist_ok=True)
    families = {split: dict(Counter(one.labels["family"] for one in problems)) for split, problems in splits.items()}
    return {split: len(problems) for split, problems in splits.items()} | {"refused": refused, "families": families}


def _prompt_ids(tokenizer: Any, problem: Problem) -> Sequence[int]:
    from postgrad import chat

    ids: Sequence[int] = chat.prompt_ids(tokenizer, problem.prompt)
    return ids


def evaluation(config: Config, run: Run) -> Any:
    """How one kernel is judged and timed: kernels.evaluate.Settings. Tasks were admitted before."""
    from postgrad.kernels import evaluate

    judging, cache = config.judging, run.folder / "builds"
    if judging.gpu is not None:
        made = evaluate.on_gpu(judging.gpu, cache=cache)
    else:
        made = evaluate.quick(cache) if judging.how == "quick" else evaluate.Settings(cache=cache)
    return replace(made, budget_s=judging.seconds, admission=False)


def admission(config: Config, run: Run, known: Tasks) -> dict[str, str]:
    """Tasks that cannot tell work from none, or whose reference does not run: id -> why."""
    from postgrad.kernels.evaluate import Evaluator
    from postgrad.kernels.reference import ReferenceFailed

    settings = replace(evaluation(config, run), admission=True)
    refused: dict[str, str] = {}
    names = dict.fromkeys(problem.id for split in known.splits.values() for problem in split)
    run.progress.start("admission", len(names), "task")
    for done, name in enumerate(names, start=1):
        run.stop_if_asked("while tasks are admitted")
        with Evaluator(known.tasks[name], settings) as evaluator:
            try:
                found = evaluator.admission()
            except ReferenceFailed as error:  # boundary: this task is left out, by name
                refused[name] = str(error)
            else:
                if found:
                    refused[name] = "; ".join(f"{one.reason.name}: {one.evidence}" for one in found)
        run.progress.update(done)
    run.progress.finish()
    return refused


def _loops(config: Config, wanted: Loops) -> Tasks:
    from postgrad.domains import loops
    from postgrad.kernels.task import of_loop

    asked = wanted.train + wanted.validation
    how: dict[str, Any] = {"seed": config.seed, "families": wanted.families, "language": wanted.language}
    own = loops.tasks("train", asked + wanted.read, **how)
    test = loops.tasks("test", wanted.test, **how)
    made = {one.task.id: one for one in (*own, *test)}

    def task(one: Any) -> Any:
        timed = one.task.quick if config.judging.how == "quick" else one.task.timed
        return of_loop(one.task, partial(loops.oracle, one.task), timed=timed)

    def write(problem: Problem, shown: Sequence[Any]) -> tuple[Message, ...]:
        if not shown:
            return loops.plain(made[problem.id].task)
        return loops.contrastive(made[problem.id].task, [(f"{one.code.rstrip()}\n", one.score) for one in shown])

    splits = {"train": own[: wanted.train], "validation": own[wanted.train : asked], "test": test}
    problems = {name: [loops.problem(one) for one in rows] for name, rows in splits.items()}
    return Tasks(
        {one.task.id: task(one) for rows in splits.values() for one in rows},
        problems,
        write,
        _code,
        wanted.language,
        made,
    )


def _kernel_bench(wanted: KernelBench) -> Tasks:
    from postgrad.kernels import contrast
    from postgrad.kernels.task import kernel_bench, kernel_bench_folder

    files = {key: path for key, path in kernel_bench_folder(Path(wanted.folder)).items() if key[0] in wanted.levels}
    if not files:
        raise ValueError(
            f"{wanted.folder} has no task of levels {list(wanted.levels)}: give others in data.kernel_bench.levels"
        )
    tasks = {f"{level}-{number}": kernel_bench(path) for (level, number), path in sorted(files.items())}

    def write(problem: Problem, shown: Sequence[Any]) -> tuple[Message, ...]:
        return contrast.prompt(tasks[problem.id], shown, wanted.backend)

    problems = [
        Problem(
            name, contrast.prompt(task, (), wanted.backend), task.source, {"family": f"level {name.partition('-')[0]}"}
        )
        for name, task in tasks.items()
    ]
    return Tasks(tasks, {"train": problems, "validation": [], "test": problems}, write, _code, wanted.backend)


def _code(text: str) -> str | None:
    from postgrad.kernels import contrast

    found = contrast.parse(text)
    return found if isinstance(found, str) else None


def own_tokenizer(config: Config) -> Callable[[], Any]:
    """Makes that of a model from nothing: of postgrad/domains/loops, in the kernels' language."""

    def made() -> Any:
        from postgrad.domains import loops

        own = config.data.loops
        return loops.tokenizer() if own is None or own.language == "cpp" else loops.triton_tokenizer()

    return made
