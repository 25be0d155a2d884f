"""Comparing formulas by math-verify, as a worker process: one JSON object a line in, one a line out.

    {"gold": "\\\\sqrt{8}", "answer": "2\\\\sqrt{2}", "seconds": 5.0}
    {"same": true}  or  {"failed": "gold" | "answer" | "memory" | <error>}

math-verify's timer is off: it reports its own time-out as "not equal", needs the main thread, and cannot interrupt a
long multiplication. `pool` kills this process instead; the alarm here ends it should its parent be gone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from fractions import Fraction
from typing import Any

from postgrad.verify import equal, numeral
from postgrad.verify.spelling import split_unit


def main(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # The pipe is ours alone: whatever a library prints goes nowhere.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable()
    math = _load()
    print(json.dumps({"ready": True}), file=out)
    for line in sys.stdin:
        job = json.loads(line)
        signal.alarm(int(job["seconds"]) + 2)
        reply = _compare(math, job["gold"], job["answer"])
        signal.alarm(0)
        print(json.dumps(reply), file=out)
        if "same" not in reply and reply["failed"] == "memory":
            return


def _load() -> Any:
    import math_verify  # type: ignore[import-untyped]
    from math_verify import grader, parser

    # Both modules turn every Exception into "not equal". Out of memory says nothing about the answer, so it must get
    # past them: their `except Exception` now means all its kinds but that one.
    kinds = tuple(kind for kind in Exception.__subclasses__() if kind is not MemoryError)
    for module in (grader, parser):
        module.Exception = kinds
    # The first formula builds the grammar's tables, which is part of the start and not of anyone's deadline.
    math_verify.parse("$x$", [math_verify.LatexExtractionConfig()], parsing_timeout=None)
    return math_verify


class _Unparsed(Exception):
    pass


_ADJACENT = re.compile(r"(?<![_\d])\d+\s+\d")
"""math-verify adds numbers that only a space parts: "3 4" would pass for 7."""


_LETTERS = re.compile(r"\\text\{\s*([A-Za-z]{1,3})\s*\}")
"""Upright letters inside a formula are symbols; whole words are `equal`'s."""


def _rounds_to(decimal: str, exact: Any) -> bool:
    import sympy  # type: ignore[import-untyped]

    number = numeral.number(split_unit(decimal)[0])
    if number is None or number.digits is None or not getattr(exact, "is_number", False):
        return False
    value = sympy.N(exact, numeral.LONGEST)
    return bool(value.is_Float) and numeral.rounds_to(number, Fraction(str(value)))


def _unsolvable(equation: Any) -> bool:
    """math-verify compares equations by their solutions, so that all without any are equal: 2 + 3 = 5 and 4 + 1 = 6."""
    import sympy
    from math_verify import grader

    left, right = grader.take_first_relation(equation).lhs, grader.take_last_relation(equation).rhs
    equation = sympy.Eq(left, right, evaluate=False)
    return not equation.free_symbols or not sympy.solve(equation, dict=True)


def _compare(math: Any, gold: str, answer: str) -> dict[str, Any]:
    import sympy
    from math_verify import grader

    def parsed(text: str, whose: str) -> Any:
        text = _LETTERS.sub(r"\1", split_unit(text)[0])
        if _ADJACENT.search(text):
            raise _Unparsed(whose)
        config = [math.LatexExtractionConfig()]
        try:
            found = math.parse(
                f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True
            )
        except MemoryError:
            raise
        except Exception as error:
            raise _Unparsed(whose) from error
        # Of a chain a = b = c that it cannot read, math-verify returns the last part alone.
        if not found or (equal.is_relation(text) and not grader.is_relation(found[0])):
            raise _Unparsed(whose)
        expression = found[0]
        # latex2sympy reads the imaginary unit as a letter.
        return expression.subs({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})

    def leaves(gold_leaf: str, answer_leaf: str) -> bool:
        known = equal.quick(gold_leaf, answer_leaf)
        if known is not None:
            return known
        g, a = parsed(gold_leaf, "gold"), parsed(answer_leaf, "answer")
        if _rounds_to(gold_leaf, a) or _rounds_to(answer_leaf, g):
            return True
        same: bool = math.verify(
            g, a, float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
        return same and not (grader.is_equation(g) and grader.is_equation(a) and _unsolvable(g))

    try:
        return {"same": equal.same(equal.read(gold), equal.read(answer), leaves)}
    except _Unparsed as unparsed:
        return {"failed": str(unparsed)}
    except MemoryError:
        return {"failed": "memory"}
    except Exception as error:  # the boundary: anything else is named and makes the trace UNCHECKED
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
