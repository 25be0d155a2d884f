"""CUDA-L1: kernels made faster by contrastive reinforcement learning, beside plain GRPO from the same model.

Paper: arXiv 2507.14111. Three stages: supervised fine-tuning on successes gathered from several samplers; self-supervised rounds, which
learn from their own successes alone; and GRPO with the speed-up as reward, its prompts showing earlier codes with their scores. No
training code was published: what the article leaves out is ours, and the presets mark it.

    pretrain         a model from nothing reads texts that nobody judged, right and wrong: what a base model knows already
    gather           20 tries a task and sampler, two successes kept     -> data/sft.jsonl, archives/gather.sqlite
    sft              likelihood of those
    self_supervised  r (1 or 0) times the gradient of log p; no baseline -> archives/self_supervised.sqlite
    grpo             the speed-up, smoothed; plain prompts               -> archives/grpo.sqlite
    contrastive      the same with earlier codes in the prompt           -> archives/contrastive.sqlite
    eval             each model with as many evaluations of the held-out tasks

Every verdict is kept (verdicts.jsonl): a code is judged once in the life of a run. What could not be checked is no reward, and is counted.

The run and its plan stand here. Beside them, each file after those that it takes from:

    settings    what a config says
    tasks       what is worked on: made or read, admitted, prompted
    judging     who judges: known verdicts, counts, costs
    asking      rounds of asking a model, earlier codes shown
    gathering   the stage gather: several samplers, the rows of SFT
    supervised  the stages base, pretrain and sft
    policy      the stages self_supervised, grpo and contrastive
    tables      the summary for people
    measuring   the stage eval: comparisons, claims, summary.json
"""

from __future__ import annotations

from typing import Any

from postgrad import wiring
from postgrad.recipes.cuda_l1.gathering import gather
from postgrad.recipes.cuda_l1.judging import judge
from postgrad.recipes.cuda_l1.measuring import measure
from postgrad.recipes.cuda_l1.policy import reinforce, repeat
from postgrad.recipes.cuda_l1.settings import ARMS, Config
from postgrad.recipes.cuda_l1.supervised import make_base, pretrain, supervise
from postgrad.recipes.cuda_l1.tasks import check_machine, own_tokenizer, prepare, tasks_of
from postgrad.run import Run
from postgrad.train.settings import PolicySettings

__all__ = ["ARMS", "Config", "judge", "main", "plan", "tasks_of"]


def main(config: Config, run: Run) -> dict[str, Any]:
    """Tasks, gathering, three stages with two arms of the third, measurement. Returns summary.json."""
    if run.ranks.size > 1:
        raise ValueError(f"cuda_l1 runs in one process, and {run.ranks.size} were started: leave torchrun out")
    check_machine(config)
    tasks_of(config)  # what cannot be worked on is told before a model is made or loaded
    base = run.stage("base", make_base, config, run)
    run.stage("data", prepare, config, run)
    run.stage("gather", gather, config, run)
    with run.tracked(config.report_to, config):
        read = run.stage("pretrain", pretrain, config, run, base) if config.pretrain else base
        taught = run.stage("sft", supervise, config, run, read)
        steady = run.stage("self_supervised", repeat, config, run, taught)
        plain = run.stage("grpo", reinforce, config, run, steady, "grpo")
        contrastive = run.stage("contrastive", reinforce, config, run, steady, "contrastive")
    models = {"sft": taught, "self_supervised": steady, "evolved": steady, "grpo": plain, "contrastive": contrastive}
    summary: dict[str, Any] = run.stage("eval", measure, config, run, models)
    return summary


def plan(config: Config) -> dict[str, str]:
    """What the run will do and need, from the config alone: no task is made and no weights are loaded."""
    planned = wiring.Planned(config.model, own_tokenizer(config))
    slots = config.eval.batch_size
    rows = {
        **planned.of_model(),
        **(planned.of_sft("pretrain", config.pretrain) if config.pretrain else {}),
        **planned.of_sft("sft", config.sft),
        **planned.of_policy("self_supervised", config.self_supervised, slots),
        **planned.of_policy("rl", config.rl, slots),
    }

    def answers(stage: PolicySettings) -> int:
        return stage.prompts_per_step * stage.num_generations * -(-stage.last_step // stage.num_iterations)

    rows["answers to judge"] = (
        f"{answers(config.self_supervised):,} self-supervised, {answers(config.rl):,} in each of two arms"
    )
    if config.data.loops is not None:
        own = config.data.loops
        samplers = len(config.gather.teachers) + len(config.gather.endpoints)
        gathered = own.train if config.gather.tasks is None else min(own.train, config.gather.tasks)
        tasks = (gathered + own.validation) * samplers
        rows["gathering"] = f"{tasks * config.gather.keep:,} to {tasks * config.gather.tries:,} tries"
        rows["evaluation"] = f"5 models x {own.test} tasks x {config.eval.rounds * config.eval.samples} answers"
    return rows
