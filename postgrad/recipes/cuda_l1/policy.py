"""What is learnt from a model's own answers: self_supervised (right or not), and GRPO on speed-ups in two arms, plain and contrastive.

All three are the same rounds of sampling, judging and learning; they differ in prompts, rewards and credit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from postgrad import wiring
from postgrad.recipes.cuda_l1.asking import ask, evolving
from postgrad.recipes.cuda_l1.judging import judge
from postgrad.recipes.cuda_l1.settings import ARMS, Config, Strategy
from postgrad.recipes.cuda_l1.tasks import Tasks, prepared
from postgrad.records import Graded
from postgrad.run import Failed, Run
from postgrad.train.settings import PolicySettings


def repeat(config: Config, run: Run, start: str) -> str:
    """Stage two: sample, judge, learn from what is right. The reward is 1 or 0 and is the advantage: a failure has no gradient."""
    from postgrad.train import advantage, reward

    rewards = reward.weighted((1.0, "accuracy", reward.accuracy))
    return _learn(config, run, start, "self_supervised", config.self_supervised, "nothing", rewards, advantage.as_given)


def reinforce(config: Config, run: Run, start: str, arm: str) -> str:
    """Stage three, or its plain twin: GRPO on smoothed speed-ups. The arms differ in their prompts alone."""
    from postgrad.kernels.guard import smooth
    from postgrad.train import advantage, reward

    wanted = config.smoothing.model_dump(exclude={"scope"})
    smoother = (smooth.per_task if config.smoothing.scope == "per_task" else smooth.overall)(**wanted)

    def speedup(group: Sequence[Graded]) -> list[float | None]:
        return smoother(group[0].problem.id, reward.score(group))

    credit = advantage.group_std if config.rl.scale_rewards == "group" else advantage.group_mean
    strategy = config.contrast.strategy if arm == "contrastive" else "nothing"
    rewards = reward.weighted((1.0, "speedup", speedup))
    return _learn(config, run, start, arm, config.rl, strategy, rewards, credit, smoother)


def _learn(
    config: Config,
    run: Run,
    start: str,
    stage: str,
    settings: PolicySettings,
    strategy: Strategy,
    rewards: Any,
    credit: Any,
    smoother: Any = None,
) -> str:
    """Rounds of sampling, judging and learning; every code goes into the stage's archive. Ends with the last checkpoint that
    validation likes best."""
    from postgrad.evals import speed
    from postgrad.kernels import archive
    from postgrad.kernels.guard.monitor import Monitor
    from postgrad.sample.engine import Engine
    from postgrad.train import fit, loss, source

    known = prepared(config, run)
    model, tokenizer = wiring.load(config.model, run, start)
    reference = wiring.load(config.model, run, start)[0] if settings.beta else None
    objective = loss.policy(
        epsilon_low=settings.epsilon,
        epsilon_high=settings.epsilon if settings.epsilon_high is None else settings.epsilon_high,
        beta=settings.beta,
        temperature=settings.temperature,
    )
    monitor = Monitor()
    with (
        judge(config, run, known, stage, monitor) as verifier,
        archive.opened(run.folder / "archives" / f"{stage}.sqlite") as codes,
    ):
        prompter = evolving(config, run, known, codes, strategy, stage)
        if config.contrast.seeded and stage in ARMS:
            _seed(run, known, prompter)
        rollouts = source.Rollouts(
            known.splits["train"],
            Engine(tokenizer, wiring.rolled_out(settings, config.eval.batch_size), seed=config.seed),
            verifier,
            rewards,
            credit,
            settings,
            tokenizer,
            seed=config.seed,
            reference=reference,
            prompter=prompter,
        )

        def validate(model: Any, step: int) -> Mapping[str, float]:
            problems = known.splits["validation"]
            if not problems:
                return {"eval_score": float(step)}
            rows = ask(config, run, known, verifier, model, tokenizer, problems, strategy, 1, f"validation-{stage}")
            found = speed.measures(rows, resamples=100)
            numbers = {name: one.value for name, one in found.items() if one is not None}
            if "correct" not in numbers:
                raise Failed(
                    f"none of {len(problems)} validation tasks' answers could be checked: run `postgrad doctor`"
                )
            score = numbers["correct"] if stage == "self_supervised" else numbers["kept"]
            return {f"eval_{name}": value for name, value in numbers.items()} | {"eval_score": score}

        feed = Watched(rollouts, smoother, monitor, partial(run.event, stage))
        fitted = fit.fit(run, stage, model, tokenizer, feed, objective, settings, validate)
    return str(fitted.best.relative_to(run.folder))


def _seed(run: Run, known: Tasks, prompter: Any) -> None:
    """The arm's archive begins with the successes of the stages before, those of training tasks."""
    from postgrad.kernels import archive

    for author, name in enumerate(("gather", "self_supervised")):
        with archive.reading(run.folder / "archives" / f"{name}.sqlite") as before:
            for problem in known.splits["train"]:
                prompter.start_from(problem.id, before.successes(problem.id, prompter.environment), name, author)


class Watched:
    """A Source: rollouts whose reward's scale and hack rates travel with the checkpoint. New alarms are told once."""

    def __init__(self, rollouts: Any, smoother: Any, monitor: Any, event: Callable[[int, Any, str], None]) -> None:
        self.rollouts, self.smoother, self.monitor, self.event = rollouts, smoother, monitor, event
        self._told: set[tuple[str, str | None]] = set()

    def step(self, model: Any, taken: int) -> Any:
        step = self.rollouts.step(model, taken)
        step.numbers.update(self.monitor.metrics())
        for alarm in self.monitor.alarms():
            if (alarm.kind, alarm.reason) not in self._told:
                self._told.add((alarm.kind, alarm.reason))
                self.event(taken + 1, "alarm", alarm.text)
        return step

    def state(self) -> dict[str, Any]:
        smoothed = None if self.smoother is None else self.smoother.state()
        return {"rollouts": self.rollouts.state(), "smoother": smoothed, "monitor": self.monitor.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rollouts.restore(state["rollouts"])
        self.monitor.load(state["monitor"])
        if self.smoother is not None:
            self.smoother.load(state["smoother"])
