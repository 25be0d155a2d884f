"""Rollouts from a script: what leaves a group, what is counted, what is refilled, and what a checkpoint keeps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import oracle
import pytest
import torch

from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict
from postgrad.run import Failed
from postgrad.sample.scripted import Said, Scripted
from postgrad.train import advantage, loss, reward, source
from postgrad.train.batch import Batch
from postgrad.train.settings import GrpoSettings

PROBLEMS = [Problem(f"p{number}", (Message("user", str(number)),), "1") for number in range(12)]

# What a line of the script says is what becomes of it: "+" is correct, "-" wrong, "0" gives no answer, "?" cannot be checked.
VERDICTS = {
    "+": Verdict(Status.CORRECT, 1.0, "said +"),
    "-": Verdict(Status.WRONG, 0.0, "said -"),
    "0": Verdict(Status.NO_ANSWER, None, "said 0"),
    "?": Verdict(Status.UNCHECKED, None, "the tool crashed"),
}


def verify(problem: Problem, trace: Trace) -> Verdict:
    return VERDICTS[trace.text[0]]


def accuracy(group: Sequence[Graded]) -> list[float | None]:
    return [one.verdict.score or 0.0 for one in group]


def length(group: Sequence[Graded]) -> list[float | None]:
    return [float(len(one.trace.token_ids)) for one in group]


def rollouts(
    tokenizer: Any,
    script: Iterable[str | Said],
    *,
    seed: int = 0,
    reference: Any = None,
    prompter: Any = None,
    **changed: Any,
) -> source.Rollouts:
    settings = GrpoSettings(
        **{
            "max_steps": 10,
            "learning_rate": 1e-3,
            "prompts_per_step": 2,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 10,
            "rewards": {"accuracy": 1.0, "max_length": 10},
        }
        | changed
    )
    return source.Rollouts(
        PROBLEMS,
        Scripted(script, lambda text: tokenizer(text)["input_ids"]),
        verify,
        reward.weighted((1.0, "accuracy", accuracy), (0.0, "length", length)),
        advantage.group_std,
        settings,
        tokenizer,
        seed=seed,
        reference=reference,
        prompter=prompter,
    )


def advantages(batches: list[Batch]) -> list[float]:
    """Of each document's tokens, all of which have the same one."""
    found = []
    for batch in batches:
        for document in range(len(batch.names)):
            values = set(batch.streams_K["advantages"][batch.document_K == document].tolist())
            assert len(values) == 1
            found.append(values.pop())
    return found


def test_a_step_by_hand(tokenizer: Any) -> None:
    feed = rollouts(tokenizer, ["+", "-", "+1", "-12", "+", "+", "+", "-"])
    step = feed.step(None, 0)
    assert feed.sampler.followed == [0]
    assert [n for _, n in feed.sampler.asked] == [4, 4]
    # Rewards 1 0 1 0: mean 1/2, deviation sqrt(1/3). Rewards 1 1 1 0: mean 3/4, deviation 1/2.
    a, b = 0.5 / ((1 / 3) ** 0.5 + 1e-4), 0.25 / (0.5 + 1e-4)
    assert sorted(advantages(step.batches)) == pytest.approx(sorted([a, -a, a, -a, b, b, b, -3 * b]))
    assert [row["advantage"] for row in step.rows] == pytest.approx([a, -a, a, -a, b, b, b, -3 * b])
    assert step.numbers == {
        "completions/mean_length": 11 / 8,
        "completions/min_length": 1,
        "completions/max_length": 3,
        "completions/clipped_ratio": 0,
        "completions/repetition": 0,
        "completions/several_answers": 0,
        "completions/without_reasoning": 0,
        "frac_reward_zero_std": 0,
        "reward": 5 / 8,
        "reward_std": pytest.approx(((1 / 3) ** 0.5 + 0.5) / 2),
        "rewards/accuracy/mean": 5 / 8,
        "rewards/accuracy/std": pytest.approx((15 / 8 / 7) ** 0.5),
        "rewards/length/mean": 11 / 8,
        "rewards/length/std": pytest.approx(((6 * 0.375**2 + 0.625**2 + 1.625**2) / 7) ** 0.5),
        "status/correct": 5 / 8,
        "status/wrong": 3 / 8,
        "status/no_answer": 0,
        "status/unchecked": 0,
        "groups/resampled": 0,
    }
    (batch,) = step.batches
    assert batch.count == len(batch.targets_K) == 11
    assert set(batch.streams_K) == {"advantages", "sampled_logprobs"}
    assert batch.streams_K["sampled_logprobs"].tolist() == [-1.0] * 11


def test_every_row_that_people_see_is_complete(tokenizer: Any) -> None:
    (row, *_) = rollouts(tokenizer, ["+", "?", "-", "-"] * 2).step(None, 0).rows
    assert row | {"problem_id": "", "prompt": "", "advantage": 0.0} == {
        "problem_id": "",
        "prompt": "",
        "gold": "1",
        "text": "+",
        "finish": "stop",
        "n_tokens": 1,
        "status": "correct",
        "reason": "said +",
        "reward": 1.0,
        "parts": {"accuracy": 1.0, "length": 1.0},
        "advantage": 0.0,
    }
    json.dumps(row, allow_nan=False)


class Reminding:
    """Puts what was answered before into the prompt."""

    def __init__(self) -> None:
        self.heard: dict[int, list[str]] = {}

    def pose(self, problems: Sequence[Problem], step: int) -> list[Problem]:
        self.heard = {at: texts for at, texts in self.heard.items() if at < step}
        before = "".join(text for texts in self.heard.values() for text in texts)
        return [replace(one, prompt=(Message("user", one.prompt[0].content + before),)) for one in problems]

    def learn(self, groups: Sequence[Sequence[Graded]], step: int) -> None:
        self.heard[step] = [one.trace.text for group in groups for one in group if one.verdict.score]


def test_a_prompter_poses_problems_and_hears_what_came_of_them(tokenizer: Any) -> None:
    prompter = Reminding()
    feed = rollouts(tokenizer, itertools.cycle("+-"), prompter=prompter)
    first, second = feed.step(None, 0), feed.step(None, 1)
    assert {row["prompt"] for row in first.rows} <= {problem.prompt[0].content for problem in PROBLEMS}
    assert all(row["prompt"].endswith("++++") for row in second.rows)
    prompts = {row["problem_id"]: row["prompt"] for row in second.rows}
    shared = second.batches[0]
    assert shared.parents, "a group is trained on behind the prompt that it was asked"
    text = tokenizer.decode(shared.input_ids_T.tolist())
    assert all(prompt in text for prompt in prompts.values())
    # A resumed run asks what it asked.
    again = rollouts(tokenizer, itertools.cycle("+-"), prompter=prompter)
    again.restore({**feed.state(), "position": 2})
    assert [row["prompt"] for row in again.step(None, 1).rows] == [row["prompt"] for row in second.rows]


def test_an_unchecked_trace_leaves_its_group_and_is_counted(tokenizer: Any) -> None:
    with_it = rollouts(tokenizer, ["+", "-", "+", "?", "+", "-", "-", "-"]).step(None, 0)
    assert with_it.numbers["status/unchecked"] == 1 / 8
    assert with_it.numbers["reward"] == 3 / 7
    first = with_it.rows[:4]
    assert first[3]["status"] == "unchecked"
    assert first[3]["reward"] is first[3]["advantage"] is None
    assert len(advantages(with_it.batches)) == 7
    assert [row["advantage"] for row in first[:3]] == advantage.group_std([1.0, 0.0, 1.0])


def test_a_wrong_trace_would_not_have_left_it(tokenizer: Any) -> None:
    instead = rollouts(tokenizer, ["+", "-", "+", "0", "+", "-", "-", "-"]).step(None, 0)
    assert instead.numbers["status/no_answer"] == 1 / 8
    assert [row["advantage"] for row in instead.rows[:4]] == advantage.group_std([1.0, 0.0, 1.0, 0.0])


def test_a_group_with_one_checked_trace_teaches_nothing(tokenizer: Any) -> None:
    step = rollouts(tokenizer, ["?", "?", "+", "?", "+", "-", "-", "-"]).step(None, 0)
    assert step.numbers["frac_reward_zero_std"] == 0.5
    assert len(advantages(step.batches)) == 4


def test_all_unchecked_is_a_failure_of_the_run_and_no_step(tokenizer: Any) -> None:
    with pytest.raises(Failed, match="no completion of this step can be trained on: every one is unchecked or was cut"):
        rollouts(tokenizer, ["?"] * 8).step(None, 0)


@pytest.mark.parametrize(
    ("limit", "drawn", "resampled", "without"),
    [(0, 2, 0, 0.5), (1, 3, 1, 2 / 3), (2, 4, 2, 0.5), (5, 4, 2, 0.5)],
)
def test_groups_without_variance_are_counted_and_refilled_up_to_a_bound(
    tokenizer: Any, limit: int, drawn: int, resampled: int, without: float
) -> None:
    dull, telling = ["+"] * 4, ["+", "-", "-", "-"]
    feed = rollouts(tokenizer, [*telling, *dull, *dull, *telling], max_resample=limit)
    step = feed.step(None, 0)
    assert len(feed.sampler.asked) == len({name for name, _ in feed.sampler.asked}) == drawn
    assert step.numbers["groups/resampled"] == resampled
    assert step.numbers["frac_reward_zero_std"] == pytest.approx(without)
    assert step.numbers["completions/mean_length"] == 1, "every sampled trace is in the numbers"
    assert len(step.rows) == 8, "as many groups as were asked for are trained on"
    assert sum(value != 0 for value in advantages(step.batches)) == (8 if limit >= 2 else 4)


def test_a_step_of_dull_groups_alone_still_is_a_step(tokenizer: Any) -> None:
    step = rollouts(tokenizer, itertools.repeat("+"), max_resample=2).step(None, 0)
    assert step.numbers["frac_reward_zero_std"] == 1
    assert step.numbers["groups/resampled"] == 4
    assert set(advantages(step.batches)) == {0.0}


CUT = [Said("+123", "length"), Said("-"), Said("+"), Said("-12345", "length")]


def test_truncated_completions_count_but_are_not_trained_on(tokenizer: Any) -> None:
    trained = rollouts(tokenizer, CUT * 2).step(None, 0)
    masked = rollouts(tokenizer, CUT * 2, mask_truncated_completions=True).step(None, 0)
    assert trained.numbers == masked.numbers
    assert masked.numbers["completions/clipped_ratio"] == 0.5
    assert len(advantages(trained.batches)) == 8
    assert len(advantages(masked.batches)) == 4
    assert [row["advantage"] for row in masked.rows] == [row["advantage"] for row in trained.rows]


@pytest.mark.parametrize(
    ("loss_type", "count"), [("grpo", 8), ("dr_grpo", 8 * 10), ("dapo", 4), ("bnpo", 4)], ids=lambda value: str(value)
)
def test_a_micro_batch_with_nothing_to_train_counts_as_its_loss_type_says(
    tokenizer: Any, loss_type: str, count: int
) -> None:
    feed = rollouts(
        tokenizer, CUT * 2, mask_truncated_completions=True, loss_type=loss_type, per_device_train_batch_size=2
    )
    batches = feed.step(None, 0).batches
    assert len(batches) == 2, "the two cut ones of each group are its longest, and fill a micro-batch"
    assert sum(batch.count for batch in batches) == count


def test_all_truncated_and_masked_is_a_failure_of_the_run(tokenizer: Any) -> None:
    with pytest.raises(Failed, match="was cut at max_completion_length with mask_truncated_completions on"):
        rollouts(tokenizer, [Said("+", "length"), Said("-", "length")] * 4, mask_truncated_completions=True).step(
            None, 0
        )


def test_problems_come_in_an_order_of_their_own_each_epoch_and_each_once(tokenizer: Any) -> None:
    def drawn(seed: int) -> list[str]:
        feed = rollouts(tokenizer, itertools.cycle("+---"), seed=seed)
        for taken in range(12):
            feed.step(None, taken)
        return [name for name, _ in feed.sampler.asked]

    names = drawn(0)
    assert len(names) == 24
    assert sorted(names[:12]) == sorted(names[12:]) == sorted(problem.id for problem in PROBLEMS)
    assert names[:12] != names[12:]
    assert names != drawn(1)
    assert names == drawn(0)


SPOKEN = ["+1234", "-", "+", "-12345678", "+22", "-3", "0", "-444", "+", "+5", "-55555", "?", "-6", "+66666", "-", "+7"]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("tokens", [40, 60, 500])
def test_micro_batches_of_so_many_tokens_have_the_gradient_of_any_others(
    model: Any, tokenizer: Any, loss_type: str, tokens: int, measured: Any
) -> None:
    objective = loss.policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, temperature=1.0)
    asked = {"loss_type": loss_type, "prompts_per_step": 4, "max_prompt_length": 30}
    one = rollouts(tokenizer, SPOKEN, per_device_train_batch_size=16, **asked).step(None, 0).batches
    filled = rollouts(tokenizer, SPOKEN, max_tokens_per_micro_batch=tokens, **asked).step(None, 0).batches
    assert len(one) == 1
    assert (len(filled) > 1) == (tokens < 500)
    assert all(len(batch.input_ids_T) <= tokens for batch in filled)
    assert sum(batch.count for batch in filled) == one[0].count
    numbers, gradients = oracle.updated(model, filled, objective)
    wanted, whole = oracle.updated(model, one, objective)
    assert numbers["loss"] == pytest.approx(wanted["loss"], rel=1e-5, abs=1e-6)
    assert measured("GRPO gradient, micro-batches by tokens", oracle.distance(gradients, whole)) < 1e-5


def test_a_limit_of_tokens_that_cannot_be_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"loss_type=bnpo divides by a micro-batch's own tokens, .* set max_tokens_per"
    ):
        rollouts(tokenizer, [], loss_type="bnpo", max_tokens_per_micro_batch=1000)
    message = r"max_tokens_per_micro_batch=521 has no room for one completion of max_prompt_length \+ max_completion_length = 512 \+ 10"
    with pytest.raises(ValueError, match=message):
        rollouts(tokenizer, [], max_tokens_per_micro_batch=521)
    assert rollouts(tokenizer, [], max_tokens_per_micro_batch=522).settings.max_tokens_per_micro_batch == 522


def same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.lengths, a.names, a.count) == (b.lengths, b.names, b.count)
        for name in ("input_ids_T", "position_ids_T", "targets_K", "predictors_K", "document_K", "weights_K"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.streams_K.keys() == b.streams_K.keys()
        for name, values in a.streams_K.items():
            assert torch.equal(values, b.streams_K[name]), name


def test_groups_in_flight_are_restored_to_the_last_bit(model: Any, tokenizer: Any) -> None:
    script = ["+1", "-22", "-", "+333", "0", "+", "?", "-4"]
    going = rollouts(tokenizer, script * 2, num_iterations=3, per_device_train_batch_size=4)
    first = going.step(model, 0)
    assert "sampled_logprobs" in first.batches[0].streams_K
    kept = json.loads(json.dumps(going.state()))

    restored = rollouts(tokenizer, script, num_iterations=3, per_device_train_batch_size=4)
    restored.restore(kept)
    for taken in (1, 2):
        again = restored.step(None, taken)
        same(again.batches, going.step(model, taken).batches)
        assert set(again.batches[0].streams_K) == {"advantages", "old_logprobs", "sampled_logprobs"}
        assert not again.rows, "what was sampled once is shown once"
    assert restored.sampler.asked == []
    later = [feed.step(model, 3) for feed in (going, restored)]
    same(later[0].batches, later[1].batches)
    assert restored.sampler.asked == going.sampler.asked[2:]


def test_old_and_reference_logprobs_are_the_models_own(model: Any, stock: Any, tokenizer: Any) -> None:
    feed = rollouts(tokenizer, ["+12", "-"] * 4, num_iterations=2, beta=0.1, temperature=0.5, reference=model)
    (batch,) = feed.step(model, 0).batches
    assert torch.equal(batch.streams_K["old_logprobs"], batch.streams_K["ref_logprobs"])
    ends = list(itertools.accumulate(batch.lengths))
    pieces = [batch.input_ids_T[end - size : end] for end, size in zip(ends, batch.lengths, strict=True)]
    whole = [torch.cat([pieces[above], pieces[piece]]) for piece, above in batch.parents.items()]
    assert len(whole) == len(batch.names) == len(pieces) - 2, (
        "two prompts stand once each, eight completions behind them"
    )
    with torch.no_grad():
        for document, ids in enumerate(whole):
            logp = (stock(input_ids=ids[None]).logits[0] / 0.5).log_softmax(-1)
            mine = batch.document_K == document
            trained = torch.arange(len(ids) - int(mine.sum()), len(ids))
            assert torch.allclose(batch.streams_K["old_logprobs"][mine], logp[trained - 1, ids[trained]], atol=1e-5)


def test_what_cannot_fill_a_step_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"12 problems are fewer than rl.prompts_per_step=13: give more, or lower it"):
        rollouts(tokenizer, [], prompts_per_step=13, per_device_train_batch_size=4)
    with pytest.raises(AssertionError, match="a reference exactly where there is a KL term"):
        rollouts(tokenizer, [], beta=0.1)
