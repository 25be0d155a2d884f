"""Sources of batches: `Packed` from examples, `Rollouts` from the model in training. `fit` cannot tell them apart.

Randomness is counted, not carried: the order is a function of (seed, epoch) and every sampled token of (seed, step,
problem, sample), so what a checkpoint keeps of a source are integers and, between inner steps, the groups in flight.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from postgrad import chat
from postgrad.grading import grade
from postgrad.protocols import PolicySampler, Prompter, Verifier
from postgrad.ranks import ALONE, Ranks
from postgrad.records import Example, Graded, Problem, Status
from postgrad.run import Failed
from postgrad.train import habits, shard
from postgrad.train.batch import Batch, Document, pack, packed_length, score
from postgrad.train.reward import Weighted
from postgrad.train.settings import PolicySettings, SftSettings

T = TypeVar("T")
Floats = np.ndarray[Any, np.dtype[np.float32]]
Advantage = Callable[[Sequence[float | None]], list[float | None]]


@dataclass(frozen=True, slots=True)
class Step:
    batches: list[Batch]
    numbers: dict[str, float] = field(default_factory=dict)
    """For the log."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """For people: what was sampled and how it was judged."""


class Source(Protocol):
    def step(self, model: Any, taken: int) -> Step:
        """Micro-batches of the step after `taken` steps."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def supervised(tokenizer: Any, examples: Sequence[Example], settings: SftSettings) -> tuple[list[Document], int]:
    """Examples -> documents with their weights on the response, and how many were left out for their length.

    Raises ValueError where an example is longer than a row and `overlong` is "error", or none is left.
    """
    documents, dropped = [], 0
    for example in examples:
        if not example.weight:
            continue  # the same as absence
        encoded = chat.encode(tokenizer, example)
        if len(encoded.ids) > settings.max_length:
            if settings.overlong == "error":
                raise ValueError(
                    f"example {example.id!r} has {len(encoded.ids)} tokens and a row holds sft.max_length={settings.max_length}: "
                    "raise it, or set sft.overlong=drop to leave such examples out"
                )
            dropped += 1
            continue
        documents.append(
            Document(example.id, encoded.ids, np.array(encoded.trained, np.float32) * np.float32(example.weight))
        )
    if not documents:
        raise ValueError(
            f"no example is left to train on: {len(examples)} given, {dropped} longer than sft.max_length={settings.max_length}, "
            f"{sum(not example.weight for example in examples)} of weight 0"
        )
    return documents, dropped


class Packed:
    """Documents in packed rows of at most `max_length` tokens, best fit decreasing, in a new order every epoch."""

    def __init__(self, documents: Sequence[Document], settings: SftSettings, *, seed: int) -> None:
        self.documents = documents
        self.settings = settings
        self.seed = seed
        self._epoch = -1
        self._rows: list[list[int]] = []
        per_epoch = len(best_fit([len(document.ids) for document in documents], settings.max_length))
        if per_epoch < settings.rows_per_step:
            raise ValueError(
                f"the data fills {per_epoch} rows of {settings.max_length} tokens and one step wants {settings.rows_per_step} "
                "(per_device_train_batch_size * gradient_accumulation_steps): lower them or sft.max_length"
            )
        self.steps_per_epoch = per_epoch // settings.rows_per_step
        """The rest of an epoch's rows, fewer than a step wants, waits for another epoch's order."""

    def step(self, model: Any, taken: int) -> Step:
        epoch, place = divmod(taken, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._order(epoch)
        wanted = self._rows[place * self.settings.rows_per_step : (place + 1) * self.settings.rows_per_step]
        batches = []
        for rows in chunks(wanted, self.settings.per_device_train_batch_size):
            documents = [self.documents[index] for row in rows for index in row]
            # The weighted mean over trained tokens: weight 2 is the same as two copies, weight 0 as absence.
            batches.append(pack(documents, count=float(sum(document.weights.sum() for document in documents))))
        return Step(batches, {"epoch": (taken + 1) / self.steps_per_epoch})

    def _order(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.documents))
        rows = best_fit([len(self.documents[index].ids) for index in order], self.settings.max_length)
        return [[int(order[place]) for place in rows[row]] for row in rng.permutation(len(rows))]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        assert not state, "packed rows follow from the step alone"


def chunks(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best fit decreasing: the longest first, each into the fullest row that still holds it. No row overflows; each index once."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    """(tokens left, row), ascending."""
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if lengths[index] > capacity:
            raise ValueError(f"a document of {lengths[index]} tokens cannot stand in a row of {capacity}")
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        bisect.insort(room, (left - lengths[index], row))
    return rows


def filled(families: Sequence[Sequence[Document]], tokens: int, multiple: int = 1) -> list[list[Document]]:
    """Groups in packs of at most `tokens`, prompts that are shared counted once, about equally long and a multiple in number.

    A group is cut only where it alone is longer. So few packs that they overflow when evened out are left uneven.
    """
    pieces = [piece for family in families for piece in _pieces(family, tokens)]
    lengths = [_trained_length(piece) for piece in pieces]
    rows = best_fit(lengths, tokens)
    number = min(-(-len(rows) // multiple) * multiple, len(pieces))
    even: list[list[int]] = [[] for _ in range(number)]
    # The longest first, each where least is.
    for index in sorted(range(len(pieces)), key=lengths.__getitem__, reverse=True):
        min(even, key=lambda row: sum(lengths[other] for other in row)).append(index)
    fits = all(sum(lengths[index] for index in row) <= tokens for row in even)
    return [[document for index in row for document in pieces[index]] for row in (even if fits else rows)]


def _pieces(family: Sequence[Document], tokens: int) -> list[list[Document]]:
    pieces: list[list[Document]] = []
    for document in family:
        if pieces and _trained_length([*pieces[-1], document]) <= tokens:
            pieces[-1].append(document)
        else:
            pieces.append([document])
    return pieces


def _trained_length(documents: Sequence[Document]) -> int:
    return packed_length([document for document in documents if document.weights.any()])


@dataclass(frozen=True, slots=True)
class Sampled:
    """One group after sampling, checking, rewarding and crediting."""

    graded: tuple[Graded, ...]
    rewards: tuple[float | None, ...]
    parts: Mapping[str, Sequence[float | None]]
    advantages: tuple[float | None, ...]

    @property
    def has_signal(self) -> bool:
        return any(advantage for advantage in self.advantages)


class Rollouts:
    """Sample a group for each problem, verify, reward, credit, pack: group-relative policy optimisation as a source of batches.

    GRPO: arXiv 2402.03300. Departures: an unchecked trace leaves its group before anything is averaged; groups without
    variance are counted and, where `max_resample` allows, refilled with further problems (DAPO's dynamic sampling, with
    a bound); lengths, rewards and advantages are each problem's own, never pooled over a device's call.

    A problem's whole group is sampled, checked and credited by one rank; then every rank knows all groups, so that the step's
    micro-batches, numbers and state are those of one process.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        sampler: PolicySampler,
        verifier: Verifier,
        reward: Weighted,
        advantage: Advantage,
        settings: PolicySettings,
        tokenizer: Any,
        *,
        seed: int,
        reference: torch.nn.Module | None = None,
        prompter: Prompter | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`prompter` None: problems are asked as they are."""
        if len(problems) < settings.prompts_per_step:
            raise ValueError(
                f"{len(problems)} problems are fewer than rl.prompts_per_step={settings.prompts_per_step}: give more, or lower it"
            )
        assert (reference is not None) == (settings.beta > 0), "a reference exactly where there is a KL term"
        self.problems = problems
        self.sampler = sampler
        self.verifier = verifier
        self.reward = reward
        self.advantage = advantage
        self.settings = settings
        self.tokenizer = tokenizer
        self.seed = seed
        self.reference = reference
        self.prompter = prompter
        self.ranks = ranks
        self._position = 0
        """How many problems were drawn so far, over all epochs."""
        self._in_flight: list[tuple[list[Document], float]] = []
        """The rollout's micro-batches with their counts, kept for the further steps on it."""

    def step(self, model: Any, taken: int) -> Step:
        if taken % self.settings.num_iterations == 0:
            groups, numbers = self._collect(model, taken)
            self._in_flight = self._micro_batches(groups)
            self._score_references(model)
            step = Step(self._packed(), numbers, [row for group in groups for row in _rows(group)])
        else:
            step = Step(self._packed())
        if not step.batches:
            raise Failed(
                "no completion of this step can be trained on: every one is unchecked or was cut at max_completion_length with "
                "mask_truncated_completions on; look at the reasons in rollouts/ and in events.jsonl"
            )
        return step

    def state(self) -> dict[str, Any]:
        pending = [
            {
                "count": count,
                "documents": [
                    {
                        "name": d.name,
                        "ids": d.ids,
                        "weights": d.weights.tolist(),
                        "streams": {k: v.tolist() for k, v in d.streams.items()},
                        "prefix": d.prefix,
                    }
                    for d in documents
                ],
            }
            for documents, count in (self._in_flight if self.settings.num_iterations > 1 else [])
        ]
        return {"position": self._position, "in_flight": pending}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._position = state["position"]
        self._in_flight = [
            (
                [
                    Document(
                        d["name"],
                        tuple(d["ids"]),
                        np.array(d["weights"], np.float32),
                        {k: np.array(v, np.float32) for k, v in d["streams"].items()},
                        d["prefix"],
                    )
                    for d in batch["documents"]
                ],
                batch["count"],
            )
            for batch in state["in_flight"]
        ]

    def _draw(self, count: int) -> list[Problem]:
        drawn = []
        for position in range(self._position, self._position + count):
            epoch, place = divmod(position, len(self.problems))
            drawn.append(self.problems[_order(self.seed, epoch, len(self.problems))[place]])
        self._position += count
        return drawn

    def _collect(self, model: Any, taken: int) -> tuple[list[Sampled], dict[str, float]]:
        self.sampler.follow(model, taken)
        wanted = self.settings.prompts_per_step
        sampled: list[Sampled] = []
        rounds = 0
        while True:
            missing = wanted - sum(group.has_signal for group in sampled)
            if not missing or rounds > self.settings.max_resample:
                break
            drawn = self._draw(missing)
            if self.prompter is not None:
                drawn = self.prompter.pose(drawn, taken)
            with shard.whole(model):
                groups = self.ranks.gather(self._sample(self.ranks.share(drawn)))
            if self.prompter is not None:
                self.prompter.learn([group.graded for group in groups], taken)
            sampled += groups
            rounds += 1
        numbers = _numbers(sampled)
        numbers["groups/resampled"] = len(sampled) - wanted
        # Groups with signal first, in the order drawn; the rest only fill up what refilling could not.
        chosen = sorted(sampled, key=lambda group: not group.has_signal)[:wanted]
        return chosen, numbers

    def _sample(self, problems: Sequence[Problem]) -> list[Sampled]:
        traces = self.sampler.sample(problems, self.settings.num_generations)
        graded = grade(problems, traces, self.verifier)
        groups = []
        for group in graded:
            parts = self.reward.parts(group)
            rewards = self.reward.total(parts)
            groups.append(Sampled(tuple(group), tuple(rewards), parts, tuple(self.advantage(rewards))))
        return groups

    def _micro_batches(self, groups: Sequence[Sampled]) -> list[tuple[list[Document], float]]:
        settings = self.settings
        families: list[list[Document]] = []
        for group in groups:
            prompt = chat.prompt_ids(self.tokenizer, group.graded[0].problem.prompt)
            own = []
            for graded, advantage in zip(group.graded, group.advantages, strict=True):
                if advantage is not None:
                    masked = settings.mask_truncated_completions and graded.trace.finish == "length"
                    own.append(_document(prompt, graded, advantage, weight=0.0 if masked else 1.0))
            # A group stays together, because neighbours share their prompt's computation; in it, like lengths do.
            families.append(sorted(own, key=lambda document: len(document.ids)))
        if settings.max_tokens_per_micro_batch is not None:
            rows = filled(families, settings.max_tokens_per_micro_batch, self.ranks.size)
        else:
            documents = [document for family in families for document in family]
            # Where a micro-batch's own tokens divide its losses, like lengths stand together overall, as in the authors' code.
            if settings.loss_type == "bnpo":
                documents.sort(key=lambda document: len(document.ids))
            rows = chunks(documents, settings.per_device_train_batch_size)
        return [_normalised(row, settings) for row in rows]

    def _packed(self) -> list[Batch]:
        # Without a loss weight a document has no gradient: it counts, but need not be computed.
        trained = [([d for d in documents if d.weights.any()], count) for documents, count in self._in_flight]
        batches = [pack(documents, count=count) for documents, count in trained if documents]
        if batches:
            idle = sum(count for documents, count in trained if not documents)
            batches[0] = replace(batches[0], count=batches[0].count + idle)
        return batches

    def _score_references(self, model: torch.nn.Module) -> None:
        """Fill the streams that the objective compares with: the reference's view, and the trainer's own before the first step."""
        scorers = {"ref_logprobs": self.reference} if self.reference is not None else {}
        if self.settings.num_iterations > 1:
            scorers["old_logprobs"] = model
        for name, scorer in scorers.items():
            trained = [[d for d in documents if d.weights.any()] for documents, _ in self._in_flight]
            scored = self.ranks.spread(partial(_logprobs, scorer, self.settings.temperature), [t for t in trained if t])
            found = iter(scored)
            self._in_flight = [
                (_with_stream(documents, name, next(found)) if some else documents, count)
                for some, (documents, count) in zip(trained, self._in_flight, strict=True)
            ]


def _order(seed: int, epoch: int, size: int) -> list[int]:
    return [int(index) for index in np.random.default_rng([seed, epoch]).permutation(size)]


def _document(prompt: Sequence[int], graded: Graded, advantage: float, *, weight: float) -> Document:
    completion = graded.trace.token_ids
    context, answer = np.zeros(len(prompt), np.float32), np.ones(len(completion), np.float32)
    streams = {
        "advantages": np.concatenate([context, answer * np.float32(advantage)]),
        "sampled_logprobs": np.concatenate([context, np.array(graded.trace.logprobs, np.float32)]),
    }
    weights = np.concatenate([context, answer * np.float32(weight)])
    return Document(graded.problem.id, (*prompt, *completion), weights, streams, prefix=len(prompt))


def _normalised(documents: list[Document], settings: PolicySettings) -> tuple[list[Document], float]:
    """Token weights and the count that together divide as `loss_type` says.

    grpo     each sequence's own mean, then the mean over sequences           arXiv 2402.03300
    bnpo     the mean over the micro-batch's tokens, then over micro-batches  TRL; the authors' code for this recipe
    dapo     the mean over all the step's tokens                              arXiv 2503.14476
    dr_grpo  the sum over tokens by a constant                                arXiv 2503.20783
    """
    tokens = sum(int(np.count_nonzero(document.weights)) for document in documents)
    match settings.loss_type:
        case "grpo":
            scaled = [_scaled(document, 1 / max(int(np.count_nonzero(document.weights)), 1)) for document in documents]
            return scaled, float(len(documents))
        case "bnpo":
            return [_scaled(document, 1 / max(tokens, 1)) for document in documents], 1.0
        case "dapo":
            return documents, float(tokens)
        case "dr_grpo":
            return documents, float(len(documents) * settings.max_completion_length)


def _scaled(document: Document, factor: float) -> Document:
    return replace(document, weights=document.weights * np.float32(factor))


@torch.no_grad()
def _logprobs(scorer: torch.nn.Module, temperature: float, documents: Sequence[Document]) -> Floats:
    device = next(scorer.parameters()).device
    scores = score(scorer, pack(documents, count=0.0).to(device), temperature=temperature)
    logprobs_K: Floats = scores.logprobs_K.cpu().numpy()
    return logprobs_K


def _with_stream(documents: Sequence[Document], name: str, values_K: Floats) -> list[Document]:
    filled, start = [], 0
    for document in documents:
        stream = np.zeros(len(document.ids), np.float32)
        places = np.flatnonzero(document.weights)
        stream[places] = values_K[start : start + len(places)]
        start += len(places)
        filled.append(replace(document, streams={**document.streams, name: stream}))
    assert start == len(values_K)
    return filled


def _numbers(groups: Sequence[Sampled]) -> dict[str, float]:
    """TRL's metric names, over every sampled trace, also those that gave no gradient."""
    graded = [one for group in groups for one in group.graded]
    lengths = [len(one.trace.token_ids) for one in graded]
    rewards = [[reward for reward in group.rewards if reward is not None] for group in groups]
    known = [reward for group in rewards for reward in group]
    numbers = {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": fmean(one.trace.finish == "length" for one in graded),
        "completions/repetition": fmean(habits.repeated(one.trace.token_ids) for one in graded),
        "completions/several_answers": fmean(habits.several_answers(one.trace.text) for one in graded),
        "completions/without_reasoning": fmean(habits.without_reasoning(one.trace.text) for one in graded),
        "frac_reward_zero_std": fmean(not group.has_signal for group in groups),
    }
    if known:
        numbers["reward"] = fmean(known)
        # TRL pools groups here; the spread that an advantage is divided by is its own group's.
        numbers["reward_std"] = fmean(_std(group) for group in rewards if group)
    for name in groups[0].parts:
        values = [value for group in groups for value in group.parts[name] if value is not None]
        if values:
            numbers[f"rewards/{name}/mean"] = fmean(values)
            numbers[f"rewards/{name}/std"] = _std(values)
    for status in Status:
        numbers[f"status/{status}"] = fmean(one.verdict.status is status for one in graded)
    return numbers


def _std(values: Sequence[float]) -> float:
    """Unbiased, as advantages are scaled; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0


def _rows(group: Sampled) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": one.problem.id,
            "prompt": one.problem.prompt[-1].content,
            "gold": one.problem.gold,
            "text": one.trace.text,
            "finish": one.trace.finish,
            "n_tokens": len(one.trace.token_ids),
            "status": one.verdict.status,
            "reason": one.verdict.reason,
            "reward": group.rewards[index],
            "parts": {name: values[index] for name, values in group.parts.items()},
            "advantage": group.advantages[index],
        }
        for index, one in enumerate(group.graded)
    ]
