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

`order.check_order` asks, before training, whether a wrong answer can out-earn a right one; `foreign` takes the reward
functions of other projects. No torch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from postgrad.protocols import Reward
from postgrad.records import Graded, Problem, Status, Trace
from postgrad.train import habits
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
    return each(group, lambda item: float(_is_correct(item)))


def score(group: Sequence[Graded]) -> list[float | None]:
    """The verdict's own score of a correct answer, such as a kernel's speed-up; 0 for a wrong one or none."""

    def one(item: Graded) -> float:
        if not _is_correct(item):
            return 0.0
        assert item.verdict.score is not None, "what is correct has a score"
        return item.verdict.score

    return each(group, one)


def format(group: Sequence[Graded]) -> list[float | None]:
    r"""1 where a boxed answer stands before </think>, so that inference can stop there; else 0.

    The `format2` of arXiv 2507.08267's code: `^.*?oxed{(.*?)}.*?</think>.*?$` with DOTALL. The first match of each
    piece decides it, so it is searched in linear time; the expression itself is cubic where </think> is missing (1.8 s
    on a trace of 600 boxes).
    """
    return each(group, lambda item: float(_in_order(item.trace.text, "oxed{", "}", "</think>")))


def format_after_thinking(group: Sequence[Graded]) -> list[float | None]:
    """1 where a boxed answer stands after </think>, the usual place in chat; else 0.

    `^.*?</think>.*?oxed{(.*?)}.*?$` with DOTALL, searched like `format`.
    """
    return each(group, lambda item: float(_in_order(item.trace.text, "</think>", "oxed{", "}")))


def format_thought(min_think: int = 20) -> Reward:
    r"""1 for `<think>` reasoning `</think>` and one answer behind it, with nothing before and each tag once; else 0.

    The reasoning has at least `min_think` letters and digits, so that an empty frame earns nothing; behind it stands exactly one
    answer (`\boxed{C}` or "Answer: C", also repeated), so that a guess of several earns nothing.
    """

    def one(item: Graded) -> float:
        text = item.trace.text.strip()
        framed = text.startswith("<think>") and text.count("<think>") == text.count("</think>") == 1
        thought, _, said = text.partition("</think>")
        single = len({answer for _, answer in habits.answers(said)}) == 1
        return float(framed and habits.letters(thought) >= min_think and single)

    return lambda group: each(group, one)


def step_markers(enough: int = 3, pattern: re.Pattern[str] = habits.MARKERS) -> Reward:
    """min(1, marks of steps / `enough`): a stand-in for "reasons in steps" that open-r1 has. HACKABLE, by listing marks.

    It looks at no verdict and no content: the exhibit of `python -m bench.hacking`, never a default.
    """
    _positive("enough", enough)
    return lambda group: each(group, lambda item: min(1.0, habits.markers(item.trace.text, pattern) / enough))


def longer(max_length: int, length: Length = in_tokens) -> Reward:
    """min(1, L / `max_length`): more is better. HACKABLE by saying anything at all; the other exhibit. See `when_correct`."""
    _positive("max_length", max_length)
    return lambda group: each(group, lambda item: min(1.0, length(item.trace) / max_length))


def when_correct(part: Reward) -> Reward:
    """`part` for correct traces, 0 for the others: what praises a form must not praise it in a wrong answer."""

    def reward(group: Sequence[Graded]) -> list[float | None]:
        values = checked_values(part(group), group, "when_correct")
        return [value if value is None or _is_correct(item) else 0.0 for value, item in zip(values, group, strict=True)]

    return reward


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

        return each(group, one)

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
        return each(group, lambda item: _cosine(item.trace.text, item.problem.reference or "", ngram))

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

    return lambda group: each(group, one)


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
        return habits.repeated(pieces(item.trace), ngram) * max_penalty

    return lambda group: each(group, one)


# ---- Relative to the group ------------------------------------------------------------------------------------------


def length_penalty(length: Length = in_tokens) -> Reward:
    """lam = 0.5 - (L - Lmin) / (Lmax - Lmin) for correct traces, min(0, lam) for wrong ones (Kimi k1.5, 2501.12599).

    Lmin and Lmax are the group's; all 0 where they are equal. Lengths 10, 20, 30, 50 with 1 and 3 correct -> 0.5, 0, 0,
    -0.5. The longest correct trace loses half a point, so a shorter wrong one can out-earn it: see `length_bonus`.
    """

    def reward(group: Sequence[Graded]) -> list[float | None]:
        share = _shares_of_range([length(item.trace) for item in group if is_checked(item)])

        def one(item: Graded) -> float:
            lam = 0.5 - share(length(item.trace))
            return lam if _is_correct(item) else min(0.0, lam)

        return each(group, one)

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
        return each(group, lambda item: 1.0 - share(length(item.trace)) if _is_correct(item) else 0.0)

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
        return {name: checked_values(part(group), group, name) for _, name, part in self.terms}

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
        "format_thought": lambda: format_thought(settings.min_think),
        "accuracy": lambda: accuracy,
        "cosine_length": lambda: cosine_length(settings.max_length, length),
        "cosine_similarity": lambda: cosine_similarity(),
        "length_penalty": lambda: length_bonus(length) if settings.gate_length else length_penalty(length),
        "soft_overlong": lambda: soft_overlong(max_completion_length, settings.overlong_buffer),
        "repetition": lambda: repetition(settings.repetition_ngram),
        "step_markers": lambda: step_markers(),
    }
    weights = {name: float(getattr(settings, name)) for name in makers}
    if weights["cosine_similarity"]:
        require_references(problems)
    return weighted(*((weight, name, makers[name]()) for name, weight in weights.items() if weight))


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def is_checked(item: Graded) -> bool:
    """False where we do not know whether the answer is right."""
    return item.verdict.status is not Status.UNCHECKED


def _is_correct(item: Graded) -> bool:
    return item.verdict.status is Status.CORRECT


def each(group: Sequence[Graded], one: Callable[[Graded], float]) -> list[float | None]:
    """`one` of every trace; None for the UNCHECKED."""
    return [one(item) if is_checked(item) else None for item in group]


def checked_values(values: Any, group: Sequence[Graded], name: str) -> list[float | None]:
    """What a reward returned, as finite numbers or None, one for each trace; anything else is an error."""
    where = f"on problem {group[0].problem.id!r}" if group else "on an empty group"
    values = list(values)
    if len(values) != len(group):
        raise ValueError(f"reward {name} {where} gave {len(values)} values for {len(group)} traces")
    result: list[float | None] = []
    for value, item in zip(values, group, strict=True):
        if value is None or not is_checked(item):
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
