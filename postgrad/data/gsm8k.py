"""GSM8K's own form: reasoning with <<calculator>> marks, then "#### N" (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re

from postgrad.data.fields import FieldError


def final(answer: str, field: str = "answer") -> str:
    """The number behind "####", without the commas that group its digits."""
    _, mark, number = answer.rpartition("####")
    number = number.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", number):
        raise FieldError(field, f"got an end of {answer[-40:]!r}, wanted '#### N' with a number N")
    return number


def response(answer: str) -> str:
    """GSM8K's reasoning in the recipe's form: the boxed answer stands before </think>, where sampling may stop."""
    reasoning = re.sub(r"<<.*?>>", "", answer.rpartition("####")[0]).strip()
    return f"<think>\n{reasoning}\n\n\\boxed{{{final(answer)}}}\n</think>"
