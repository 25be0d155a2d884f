"""Verbose arithmetic: chains of operations modulo 10 with exact answers and needlessly long traces.

A problem is a chain of numbered operations on single digits, worked in their order, phrased in one of two ways:

    take 7 (1)+5 (2)*3 (3)-4 mod 10        (1)+5 (2)*3 (3)-4 of 7 mod 10

and a teacher's trace works it step by step, checking each step again a geometrically distributed number of times:

    <think>(1)7+5=2 wait (1)7+5=2(2)2*3=6(3)6-4=2\\boxed{2}</think>

The checks never find an error, so they are pure cost: what stage two of the recipe should learn to leave out.

Splits are disjoint twice over: a template (phrasing and operator sequence) and an operand tuple each belong to one split
by their hash, and a problem of a split has both from it. So no test problem shares its template or its numbers with
a training problem.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from postgrad.records import Message, Problem

Split = Literal["train", "validation", "test"]
MODULUS = 10
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
PHRASINGS = ("take", "of")
LONGEST = 6
"""Operations that have a number of their own in the tokenizer."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIELDS = ("<think>", "</think>", "\\boxed{", " wait", "take ", " of ", " mod 10", "user", "assistant", "system")


def split_of(key: str) -> Split:
    """Seven tenths train, one tenth validation, two tenths test; the same on every machine."""
    bucket = hashlib.sha256(key.encode()).digest()[0] / 256
    return "train" if bucket < 0.7 else "validation" if bucket < 0.8 else "test"


def problems(split: Split, count: int, *, min_steps: int, max_steps: int, seed: int) -> list[Problem]:
    """`count` different problems of a split.

    Raises ValueError where the split has not that many (two-step problems are few).
    """
    rng = np.random.default_rng([seed, len(split)])
    made: dict[str, Problem] = {}
    attempts = 0
    while len(made) < count:
        attempts += 1
        if attempts > 1000 + 200 * count:
            raise ValueError(
                f"found only {len(made)} different {split} problems of {min_steps} to {max_steps} steps, {count} wanted: "
                "ask for fewer, or raise max_steps"
            )
        steps = int(rng.integers(min_steps, max_steps + 1))
        digits = [int(digit) for digit in rng.integers(0, MODULUS, steps + 1)]
        operators = "".join(rng.choice(list(OPERATORS), steps))
        phrasing = str(rng.choice(PHRASINGS))
        if split_of(f"{phrasing} {operators}") != split or split_of(f"operands {digits}") != split:
            continue
        problem = _problem(phrasing, digits, operators)
        made.setdefault(problem.id, problem)
    return list(made.values())


def _problem(phrasing: str, digits: list[int], operators: str) -> Problem:
    tail = list(zip(operators, digits[1:], strict=True))
    numbered = "".join(f"{_number(place)}{op}{digit}" for place, (op, digit) in enumerate(tail))
    text = (f"take {digits[0]}{numbered}" if phrasing == "take" else f"{numbered} of {digits[0]}") + " mod 10"
    chain = [str(digits[0]), *(f"{op}{digit}" for op, digit in tail)]
    labels = {"steps": str(len(tail)), "phrasing": phrasing, "operators": operators, "chain": " ".join(chain)}
    return Problem(
        f"{phrasing}:{' '.join(chain)}",
        (Message("user", text),),
        gold=str(list(_steps(labels["chain"]))[-1][3]),
        labels=labels,
    )


def _number(place: int) -> str:
    return f" ({place + 1})"


def _steps(chain: str) -> Iterator[tuple[int, str, int, int]]:
    """(left, operator, right, result) of each operation, modulo 10."""
    first, *rest = chain.split()
    left = int(first)
    for part in rest:
        result = OPERATORS[part[0]](left, int(part[1:])) % MODULUS
        yield left, part[0], int(part[1:]), result
        left = result


def traces(problem: Problem, count: int, *, recheck: float, seed: int) -> list[str]:
    """`count` correct traces of one problem, as verbose as their luck: after a step, another check with probability `recheck`."""
    digest = hashlib.sha256(f"{seed} {problem.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    written = []
    for _ in range(count):
        parts = []
        for place, (left, op, right, result) in enumerate(_steps(problem.labels["chain"])):
            step = f"{_number(place)}{left}{op}{right}={result}"
            parts.append(step + f" wait{step}" * int(rng.geometric(1 - recheck) - 1))
        written.append(f"<think>{''.join(parts)}\\boxed{{{problem.gold}}}</think>")
    return written


def tokenizer() -> Any:
    """A byte-level tokenizer with one token for each field of the domain; encodes any text, saves as a Hugging Face folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(field, normalized=False) for field in (*FIELDS, *map(_number, range(LONGEST)))])
    core.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>", "<|pad|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
