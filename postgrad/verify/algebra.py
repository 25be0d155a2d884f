"""Comparing formulas by math-verify, as a worker process: one JSON object a line in, one a line out.

    {"gold": "\\\\sqrt{8}", "answer": "2\\\\sqrt{2}", "seconds": 5.0}  ->  {"same": true}  or  {"failed": "gold" | "answer" | why}

math-verify's timer is off: it reports its own time-out as "not equal", needs the main thread, and cannot interrupt a long
multiplication. `pool` kills this process instead; the alarm here ends it should its parent be gone.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

from postgrad.verify import equal


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
    import math_verify
    from math_verify import grader, parser

    # Both modules turn every Exception into "not equal". Out of memory says nothing about the answer, so it must get past
    # them: their `except Exception` now means all its kinds but that one.
    kinds = tuple(kind for kind in Exception.__subclasses__() if kind is not MemoryError)
    for module in (grader, parser):
        module.Exception = kinds  # type: ignore[attr-defined]
    return math_verify


class _Unparsed(Exception):  # noqa: N818
    pass


def _compare(math: Any, gold: str, answer: str) -> dict[str, Any]:
    def parsed(text: str, whose: str) -> Any:
        config = [math.LatexExtractionConfig()]
        try:
            found = math.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
        except MemoryError:
            raise
        except Exception as error:
            raise _Unparsed(whose) from error
        if not found:
            raise _Unparsed(whose)
        return found[0]

    def leaves(gold_leaf: str, answer_leaf: str) -> bool:
        known = equal.quick(gold_leaf, answer_leaf)
        if known is not None:
            return known
        g = parsed(equal.split_unit(gold_leaf)[0], "gold")
        a = parsed(equal.split_unit(answer_leaf)[0], "answer")
        same: bool = math.verify(
            g, a, float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
        return same

    try:
        return {"same": equal.same(equal.read(gold), equal.read(answer), leaves)}
    except _Unparsed as unparsed:
        return {"failed": str(unparsed)}
    except MemoryError:
        return {"failed": "memory"}
    except Exception as error:  # the boundary: anything else is named and makes the trace UNCHECKED
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
