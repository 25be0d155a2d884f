"""What is learnt by likelihood of given texts: the base model, pretrain for a model from nothing, and sft on gathered successes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postgrad import wiring
from postgrad.recipes.cuda_l1.settings import Config
from postgrad.recipes.cuda_l1.tasks import own_tokenizer, prepared
from postgrad.records import Example, read_jsonl
from postgrad.run import Run

READ_A_COMPARISON = 4
"""Of so many tasks that are read about, one is compared."""


def make_base(config: Config, run: Run) -> str:
    """What SFT starts from."""
    return wiring.base(config.model, run, own_tokenizer(config), config.seed)


def pretrain(config: Config, run: Run, base: str) -> str:
    """A model from nothing learns the language: texts about further tasks, right or wrong as they come, that nobody has judged."""
    from postgrad.domains import loops
    from postgrad.domains.loops import rows
    from postgrad.train import fit, loss, source

    assert config.pretrain is not None, "main calls this stage only where there is one"
    known = prepared(config, run)
    model, tokenizer = wiring.load(config.model, run, base)
    made = [one for name, one in known.made.items() if name not in known.tasks]
    teachers = [loops.Teacher(name, made, lambda _: (), seed=config.seed) for name in config.gather.teachers]
    texts = [
        Example(
            loops.plain(one.task),
            loops.answer(teacher.code(one, 0), one.task.language),
            id=f"{one.task.id} {teacher.name}",
        )
        for place, one in enumerate(made)
        for teacher in (teachers[(place + turn) % len(teachers)] for turn in range(2))
    ]
    # Few of these: they are long, and copying a task's constants is learnt from the short ones first.
    for one in made[::READ_A_COMPARISON]:
        texts += rows.claimed(one, most=config.contrast.exemplars, seed=config.seed)
    packed = source.Packed(source.supervised(tokenizer, texts, config.pretrain)[0], config.pretrain, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:  # noqa: ARG001  as every validation
        return {"eval_score": float(step)}

    fitted = fit.fit(run, "pretrain", model, tokenizer, packed, loss.likelihood, config.pretrain, validate)
    return str(fitted.best.relative_to(run.folder))


def supervise(config: Config, run: Run, base: str) -> str:
    """Stage one; goes on from the checkpoint with the lowest loss on validation tasks."""
    from postgrad.train import fit, loss, source

    model, tokenizer = wiring.load(config.model, run, base)
    rows = {
        name: list(read_jsonl(Example, run.folder / "data" / f"{name}.jsonl")) for name in ("sft", "sft_validation")
    }
    documents, dropped = source.supervised(tokenizer, rows["sft"], config.sft)
    unseen = source.supervised(tokenizer, rows["sft_validation"], config.sft)[0] if rows["sft_validation"] else []
    if dropped:
        told = f"{dropped} examples are longer than sft.max_length={config.sft.max_length} and were left out"
        run.event("sft", 0, "warning", told)
    packed = source.Packed(documents, config.sft, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:
        if not unseen:
            return {"eval_score": float(step)}
        measured = fit.mean_loss(model, unseen)
        return {"eval_loss": measured, "eval_score": -measured}

    fitted = fit.fit(run, "sft", model, tokenizer, packed, loss.likelihood, config.sft, validate)
    return str(fitted.best.relative_to(run.folder))
