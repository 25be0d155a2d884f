"""Rewards: what we prefer about a trace. Each is a function of ONE problem's group -> a number or None for each trace.

    reward = weighted((1.0, "format", format), (1.0, "accuracy", accuracy), (0.5, "length_penalty", length_bonus()))
    reward(group)          # totals
    reward.parts(group)    # {"format": [...], "accuracy": [...], "length_penalty": [...]}

Three rules hold for all of them. An UNCHECKED trace has no reward (None) and takes no part in what its siblings are
compared with. NO_ANSWER is the model's fault and counts as wrong. What cannot be computed is an error with the
problem's id, never a number.

Lengths are counted by a function, `in_tokens` or `in_characters`: the two-stage recipe's authors write 30,000 and count
characters, about 8,000 to 10,000 tokens. Everything group-relative is relative to one problem's group; their code pools
the problems of a device, where an easy problem's short traces make a hard problem's long ones look worse.

`check_order` asks, before training, whether a wrong answer can out-earn a right one. No torch.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from postgrad.protocols import Reward
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict
from postgrad.train.settings import RewardSettings

Length = Callable[[Trace], int]


def in_tokens(trace: Trace) -> int:
    """Sampled tokens, the end-of-sequence token included."""
    return len(trace.token_ids)


def in_characters(trace: Trace) -> int:
    """Characters of the decoded text, what arXiv 2507.08267's code counts."""
    return len(trace.text)


# ---- One trace at a time --------------------------------------------------------------------------------------------


def accuracy(group: Sequence[Graded]) -> list[float | None]:
    """1 for a correct answer, 0 for a wrong one or none."""
    return _each(group, lambda item: float(_is_correct(item)))


def format(group: Sequence[Graded]) -> list[float | None]:
    r"""1 where a boxed answer stands before </think>, so that inference can stop there; else 0.

    The `format2` of arXiv 2507.08267's code: `^.*?oxed{(.*?)}.*?</think>.*?$` with DOTALL. The first match of each
    piece decides it, so it is searched in linear time; the expression itself is cubic where </think> is missing (1.8 s
    on a trace of 600 boxes).
    """
    return _each(group, lambda item: float(_in_order(item.trace.text, "oxed{", "}", "</think>")))


def format_after_thinking(group: Sequence[Graded]) -> list[float | None]:
    """1 where a boxed answer stands after </think>, the usual place in chat; else 0.

    `^.*?</think>.*?oxed{(.*?)}.*?$` with DOTALL, searched like `format`.
    """
    return _each(group, lambda item: float(_in_order(item.trace.text, "</think>", "oxed{", "}")))


def cosine_length(max_length: int, length: Length = in_tokens) -> Reward:
    """Correct: 1 falling to 0.1 as length goes from 0 to `max_length` (units of `length`); wrong: -1 rising to -0.1.

    r = lo + (hi - lo) (1 + cos(pi min(1, L / max_length))) / 2 with (lo, hi) = (0.1, 1) or (-0.1, -1): arXiv
    2502.03373 in the setting of arXiv 2507.08267's code. Beyond `max_length` it is flat. It pushes wrong traces to be
    longer: more thought where thought failed, and against the length penalty.
    """
    _positive("max_length", max_length)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        def one(item: Graded) -> float:
            low, high = (0.1, 1.0) if _is_correct(item) else (-0.1, -1.0)
            return low + 0.5 * (high - low) * (1 + math.cos(math.pi * min(1.0, length(item.trace) / max_length)))

        return _each(group, one)

    return reward


def cosine_similarity(ngram: int = 3) -> Reward:
    """Cosine, in [0, 1], between the character n-gram counts of the trace and of the problem's reference trace.

    Descriptions of arXiv 2507.08267 speak of a cosine similarity to a correct trace; its code has `cosine_length`. We
    compare n-grams (white space folded, ends padded) rather than embeddings: no second model, the same value
    everywhere, and it works on any domain's notation. It does not look at the verdict, so a wrong answer in the
    reference's style earns nearly as much as a right one: `check_order` shows it. A problem without a reference is an
    error; `require_references` finds it before training.
    """
    _positive("ngram", ngram)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        require_references(item.problem for item in group)
        return _each(group, lambda item: _cosine(item.trace.text, item.problem.reference or "", ngram))

    return reward


def require_references(problems: Iterable[Problem]) -> None:
    """Raise where a problem has no reference trace (or an empty one)."""
    missing = [problem.id for problem in problems if not (problem.reference or "").strip()]
    if missing:
        raise ValueError(
            f"the cosine_similarity reward compares with a reference trace, and {len(missing)} problems have none, "
            f"{missing[0]!r} first: give Problem.reference or set the weight of cosine_similarity to 0"
        )


def soft_overlong(max_length: int, buffer: int, length: Length = in_tokens) -> Reward:
    """0 up to `max_length` - `buffer`, then falling in a line to -1 at `max_length` (DAPO, arXiv 2503.14476)."""
    _positive("buffer", buffer)
    if buffer >= max_length:
        raise ValueError(f"soft_overlong: the buffer ({buffer}) must be smaller than max_length ({max_length})")

    def one(item: Graded) -> float:
        over = length(item.trace) - (max_length - buffer)
        return -min(1.0, over / buffer) if over > 0 else 0.0

    return lambda group: _each(group, one)


def tokens_of(trace: Trace) -> Sequence[Hashable]:
    return trace.token_ids


def words_of(trace: Trace) -> Sequence[Hashable]:
    """Lower-case words, what arXiv 2502.03373's copies on the web count."""
    return trace.text.lower().split()


def repetition(
    ngram: int = 3, max_penalty: float = -1.0, pieces: Callable[[Trace], Sequence[Hashable]] = tokens_of
) -> Reward:
    """(1 - distinct n-grams / n-grams) * `max_penalty`: 0 without repetition; arXiv 2502.03373, appendix C.2.

    "a b a b a b a b" with n = 3 has 2 distinct of 6: -0.667. Shorter than one n-gram: 0.
    """
    _positive("ngram", ngram)
    if not (math.isfinite(max_penalty) and max_penalty <= 0):
        raise ValueError(f"repetition: max_penalty={max_penalty} must be a number of at most 0")

    def one(item: Graded) -> float:
        row = pieces(item.trace)
        grams = [tuple(row[start : start + ngram]) for start in range(len(row) - ngram + 1)]
        return (1 - len(set(grams)) / len(grams)) * max_penalty if grams else 0.0

    return lambda group: _each(group, one)


# ---- Relative to the group ------------------------------------------------------------------------------------------


def length_penalty(length: Length = in_tokens) -> Reward:
    """lam = 0.5 - (L - Lmin) / (Lmax - Lmin) for correct traces, min(0, lam) for wrong ones (Kimi k1.5, 2501.12599).

    Lmin and Lmax are the group's; all 0 where they are equal. Lengths 10, 20, 30, 50 with 1 and 3 correct -> 0.5, 0, 0,
    -0.5. The longest correct trace loses half a point, so a shorter wrong one can out-earn it: see `length_bonus`.
    """

    def reward(group: Sequence[Graded]) -> list[float | None]:
        share = _shares_of_range([length(item.trace) for item in group if _is_checked(item)])

        def one(item: Graded) -> float:
            lam = 0.5 - share(length(item.trace))
            return lam if _is_correct(item) else min(0.0, lam)

        return _each(group, one)

    return reward


def length_bonus(length: Length = in_tokens) -> Reward:
    """The length penalty gated by correctness: 1 - (L - Lmin) / (Lmax - Lmin) for correct traces, 0 for the others.

    Ours, after `length_penalty`. Lmin and Lmax are over the group's CORRECT traces; where they are equal (one correct
    trace, say) it is 0.5. It is lam plus a half: among correct traces the preference is the same, and because being
    correct never costs anything, no positive weight can put a wrong trace above a right one. Leaving the wrong traces
    out of Kimi's term is not enough for that: the longest correct trace would still be at -0.5, and with the cosine's
    0.1 below a wrong one's -0.1.
    """

    def reward(group: Sequence[Graded]) -> list[float | None]:
        share = _shares_of_range([length(item.trace) for item in group if _is_correct(item)])
        return _each(group, lambda item: 1.0 - share(length(item.trace)) if _is_correct(item) else 0.0)

    return reward


def _shares_of_range(lengths: Sequence[int]) -> Callable[[int], float]:
    """Where in [min, max] a length is, from 0 to 1; the middle where there is no range."""
    if not lengths or min(lengths) == max(lengths):
        return lambda _: 0.5
    low, high = min(lengths), max(lengths)
    return lambda value: (value - low) / (high - low)


# ---- Together -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of named rewards, itself a Reward. Make it with `weighted`."""

    terms: tuple[tuple[float, str, Reward], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a weighted reward needs at least one part")
        names = [name for _, name, _ in self.terms]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"parts of a reward need different names; given more than once: {', '.join(twice)}")
        for weight, name, _ in self.terms:
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name} must be a finite number, not {weight}")

    def __call__(self, group: Sequence[Graded]) -> list[float | None]:
        return self.total(self.parts(group))

    def parts(self, group: Sequence[Graded]) -> dict[str, list[float | None]]:
        """Each part's values before weighting; None throughout for an UNCHECKED trace, whatever a part says."""
        if len({item.problem.id for item in group}) > 1:
            raise ValueError(f"a reward sees one problem's group, not {sorted({item.problem.id for item in group})}")
        return {name: _checked_values(part(group), group, name) for _, name, part in self.terms}

    def total(self, parts: Mapping[str, Sequence[float | None]]) -> list[float | None]:
        """The weighted sum of what `parts` gave; None where any part is None."""
        weights = [weight for weight, _, _ in self.terms]
        totals: list[float | None] = []
        for row in zip(*(parts[name] for _, name, _ in self.terms), strict=True):
            present = [value for value in row if value is not None]
            whole = len(present) == len(row)
            totals.append(math.fsum(w * value for w, value in zip(weights, present, strict=True)) if whole else None)
        return totals


def weighted(*terms: tuple[float, str, Reward]) -> Weighted:
    """weighted((1.0, "accuracy", accuracy), (0.5, "length", length_bonus()))."""
    return Weighted(terms)


def from_settings(settings: RewardSettings, max_completion_length: int, problems: Iterable[Problem] = ()) -> Weighted:
    """The reward that a config describes; parts of weight 0 are left out. `problems` are checked for what it needs."""
    length = {"tokens": in_tokens, "characters": in_characters}[settings.length_unit]
    makers: dict[str, Callable[[], Reward]] = {
        "format": lambda: format,
        "accuracy": lambda: accuracy,
        "cosine_length": lambda: cosine_length(settings.max_length, length),
        "cosine_similarity": lambda: cosine_similarity(),
        "length_penalty": lambda: length_bonus(length) if settings.gate_length else length_penalty(length),
        "soft_overlong": lambda: soft_overlong(max_completion_length, settings.overlong_buffer),
        "repetition": lambda: repetition(settings.repetition_ngram),
    }
    weights = {name: float(getattr(settings, name)) for name in makers}
    if weights["cosine_similarity"]:
        require_references(problems)
    return weighted(*((weight, name, makers[name]()) for name, weight in weights.items() if weight))


# ---- Other projects' forms ------------------------------------------------------------------------------------------


def trl(function: Callable[..., Any], gold: str = "solution") -> Reward:
    """A reward function in TRL's form, f(prompts, completions, completion_ids=..., **columns) -> list[float | None].

    Called once for a group with TRL's conversational form (lists of messages). Columns: every label of the problem, its
    `id`, `reference` and, under the name `gold`, its gold answer (last, so they win over a label of the same name).
    Coroutine functions are run to their end; `log_extra` and `log_metric` are accepted and go nowhere. UNCHECKED traces
    are not shown to it. What it raises is raised again with the problem's id.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        shown = [item for item in group if _is_checked(item)]
        if not shown:
            return [None] * len(group)
        problem, count = shown[0].problem, len(shown)
        prompt = [{"role": message.role, "content": message.content} for message in problem.prompt]
        columns = {**problem.labels, "id": problem.id, "reference": problem.reference, gold: problem.gold}
        try:
            values = function(
                prompts=[prompt] * count,
                completions=[[{"role": "assistant", "content": item.trace.text}] for item in shown],
                completion_ids=[list(item.trace.token_ids) for item in shown],
                log_extra=_discard,
                log_metric=_discard,
                **{column: [value] * count for column, value in columns.items()},
            )
            if inspect.iscoroutine(values):
                values = asyncio.run(values)
        except Exception as error:
            raise RuntimeError(f"reward function {name} failed on problem {problem.id!r}: {error!r}") from error
        checked = iter(_checked_values(values, shown, name))
        return [next(checked) if _is_checked(item) else None for item in group]

    return reward


def verl(compute_score: Callable[..., Any], data_source: str = "") -> Reward:
    """A scorer in verl's form: compute_score(data_source, solution_str, ground_truth, extra_info) -> float or a dict.

    Called once for a trace. `data_source` is the problem's label of that name, or the argument; `extra_info` is the
    labels and the `id`. UNCHECKED traces are not shown to it. What it raises is raised again with the problem's id.
    """
    name = getattr(compute_score, "__name__", type(compute_score).__name__)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        def one(item: Graded) -> float:
            problem = item.problem
            try:
                value = compute_score(
                    data_source=problem.labels.get("data_source", data_source),
                    solution_str=item.trace.text,
                    ground_truth=problem.gold,
                    extra_info={**problem.labels, "id": problem.id},
                )
                return float(value["score"] if isinstance(value, Mapping) else value)
            except Exception as error:
                raise RuntimeError(f"compute_score {name} failed on problem {problem.id!r}: {error!r}") from error

        return _checked_values(_each(group, one), group, name)

    return reward


def _discard(*_: Any, **__: Any) -> None:
    """Where a TRL function's own log lines go."""


# ---- Can a wrong answer out-earn a right one? -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What `check_order` found."""

    pairs: int
    """(wrong, correct) pairs that were compared, each inside one synthetic group."""
    inverted_share: float
    """Share of them in which the wrong trace earns at least as much as the correct one."""
    inverted_share_same_style: float
    """The same, among pairs that differ only in correctness and length (both formatted, say)."""
    examples: tuple[str, ...]
    """The worst inversion of each pair of styles, worst first, in words; empty where there are none."""

    def to_summary(self) -> dict[str, Any]:
        return {
            "inverted_share": self.inverted_share,
            "inverted_share_same_style": self.inverted_share_same_style,
            "pairs": self.pairs,
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class _Kind:
    """A synthetic trace."""

    correct: bool
    tokens: int
    style: str

    def __str__(self) -> str:
        return f"{'correct' if self.correct else 'wrong'}, {self.tokens} tokens, {self.style}"


STYLES = ("formatted", "unformatted", "looping")
"""Boxed answer before </think>; no box and no </think>; formatted, but saying one thing over and over."""


def check_order(
    reward: Reward,
    max_completion_length: int,
    group: int = 8,
    shares: Sequence[float] = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0),
    characters_per_token: float = 3.0,
    examples: int = 5,
) -> Order:
    """Compare a wrong with a correct trace in every synthetic group: all lengths x `STYLES` x kinds of company.

    Lengths are `shares` of `max_completion_length`; at the whole of it a trace is cut (finish "length"). The two traces
    sit in a group of `group` whose others are all correct or all wrong, and all short, all long or spread over the
    grid, because group-relative terms depend on the company. The share is over this grid, not over what a model will
    sample: 0 is a guarantee on the grid, more is a reason to read the examples.
    """
    if group < 2 or max_completion_length < 2 or not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError("check_order needs a group of 2 or more, 2 or more tokens, and shares of the length in (0, 1]")
    lengths = sorted({max(1, round(share * max_completion_length)) for share in shares})
    reference = _synthetic_text(_Kind(True, lengths[-1] // 2, "formatted"), characters_per_token)
    problem = Problem("synthetic", (Message("user", "?"),), "1", reference=reference)

    @cache
    def graded(kind: _Kind) -> Graded:
        start = 0 if kind.correct else 10**6
        ids = (start,) * kind.tokens if kind.style == "looping" else tuple(range(start, start + kind.tokens))
        finish: Any = "length" if kind.tokens >= max_completion_length else "stop"
        trace = Trace(problem.id, _synthetic_text(kind, characters_per_token), ids, (0.0,) * kind.tokens, finish)
        return Graded(problem, trace, Verdict(Status.CORRECT if kind.correct else Status.WRONG, float(kind.correct)))

    pairs = inverted = same = same_inverted = 0
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    companies = [
        tuple(_Kind(correct, tokens, "formatted") for tokens in itertools.islice(itertools.cycle(some), group - 2))
        for correct in (True, False)
        for some in (lengths[:1], lengths[-1:], lengths)
    ]
    for wrong, right, company in itertools.product(
        (_Kind(False, tokens, style) for style in STYLES for tokens in lengths),
        (_Kind(True, tokens, style) for style in STYLES for tokens in lengths),
        companies,
    ):
        low, high, *_ = reward([graded(kind) for kind in (wrong, right, *company)])
        if low is None or high is None:
            continue
        bad = low >= high - 1e-9
        pairs += 1
        inverted += bad
        same += wrong.style == right.style
        same_inverted += bad and wrong.style == right.style
        if bad:
            text = f"({wrong}) earns {low:.3f}, ({right}) earns {high:.3f}{_beside(company)}"
            styles = (wrong.style, right.style)
            worst[styles] = max(worst.get(styles, (-math.inf, "")), (low - high, text))
    if not pairs:
        raise ValueError("the reward is None for every synthetic trace, so nothing can be said about its order")
    texts = tuple(text for _, text in sorted(worst.values(), reverse=True)[:examples])
    return Order(pairs, inverted / pairs, same_inverted / same if same else 0.0, texts)


def _beside(company: Sequence[_Kind]) -> str:
    if not company:
        return ""
    lengths = ", ".join(str(kind.tokens) for kind in company)
    return f", beside {'correct' if company[0].correct else 'wrong'} traces of {lengths} tokens"


def _synthetic_text(kind: _Kind, characters_per_token: float) -> str:
    """Text of about the wanted length: filler, then the ending of its style."""
    ending = "" if kind.style == "unformatted" else f"\\boxed{{{1 if kind.correct else 2}}}</think>"
    room = max(0, round(kind.tokens * characters_per_token) - len(ending))
    words = itertools.repeat("so ") if kind.style == "looping" else (f"{number} " for number in itertools.count())
    return "".join(itertools.islice(itertools.chain.from_iterable(words), room)) + ending


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def _is_checked(item: Graded) -> bool:
    return item.verdict.status is not Status.UNCHECKED


def _is_correct(item: Graded) -> bool:
    return item.verdict.status is Status.CORRECT


def _each(group: Sequence[Graded], one: Callable[[Graded], float]) -> list[float | None]:
    return [one(item) if _is_checked(item) else None for item in group]


def _checked_values(values: Any, group: Sequence[Graded], name: str) -> list[float | None]:
    """What a reward returned, as finite numbers or None, one for each trace; anything else is an error."""
    where = f"on problem {group[0].problem.id!r}" if group else "on an empty group"
    values = list(values)
    if len(values) != len(group):
        raise ValueError(f"reward {name} {where} gave {len(values)} values for {len(group)} traces")
    result: list[float | None] = []
    for value, item in zip(values, group, strict=True):
        if value is None or not _is_checked(item):
            result.append(None)
        elif math.isfinite(number := float(value)):
            result.append(number)
        else:
            raise ValueError(f"reward {name} {where} gave {value}: give a finite number, or None to leave a trace out")
    return result


def _in_order(text: str, *pieces: str) -> bool:
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _cosine(one: str, other: str, ngram: int) -> float:
    a, b = _ngrams(one, ngram), _ngrams(other, ngram)
    dot = sum(count * b[gram] for gram, count in a.items())
    norms = math.sqrt(sum(count * count for count in a.values()) * sum(count * count for count in b.values()))
    return min(1.0, dot / norms) if norms else 0.0


@lru_cache(maxsize=512)
def _ngrams(text: str, ngram: int) -> Counter[str]:
    words = " ".join(text.split())
    padded = " " * (ngram - 1) + words + " " * (ngram - 1) if words else ""
    return Counter(padded[start : start + ngram] for start in range(len(padded) - ngram + 1))


def _positive(name: str, value: int) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be a positive number, not {value}")
