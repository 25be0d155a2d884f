"""The values of columns, checked: each function gives a usable value or raises a FieldError that names the field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from postgrad.data.rows import kind
from postgrad.records import Message

Role = Literal["system", "user", "assistant", "tool"]
LOST_IN_MESSAGE = ("tool_calls", "function_call", "loss", "loss_scale", "weight", "train", "images")
ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "tool": "tool", "observation": "tool",
}  # fmt: skip


class FieldError(ValueError):
    """A field that cannot be used: its name, and what was got and wanted."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def text(field: str, value: Any) -> str:
    """Text with something in it that can be written as UTF-8."""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise FieldError(field, f"got {kind(value)}, wanted text")
    if not value.strip():
        raise FieldError(field, "got empty text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        place = error.start + 1
        raise FieldError(field, f"got half a surrogate pair at character {place}, wanted valid text") from None
    return value


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def messages(field: str, value: Any, role: str = "role", content: str = "content") -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise FieldError(field, f"got {'no messages' if value == [] else kind(value)}, wanted a list of messages")
    return tuple(_message(f"{field}[{at}]", turn, role, content) for at, turn in enumerate(value))


def _message(field: str, turn: Any, role: str, content: str) -> Message:
    if not isinstance(turn, Mapping):
        raise FieldError(field, f"got {kind(turn)}, wanted an object with {role} and {content}")
    for name in LOST_IN_MESSAGE:
        if turn.get(name) not in (None, [], {}):
            raise FieldError(f"{field}.{name}", "is not supported; use the row's weight, or remove it")
    known = ROLES.get(turn[role]) if isinstance(turn.get(role), str) else None
    if known is None:
        raise FieldError(f"{field}.{role}", f"got {turn.get(role)!r}, wanted one of {', '.join(ROLES)}")
    said = text(f"{field}.{content}", turn.get(content))
    if known == "assistant" and turn.get("reasoning_content"):
        said = f"<think>\n{text(f'{field}.reasoning_content', turn['reasoning_content']).strip()}\n</think>\n\n{said}"
    return Message(known, said)


def gold(field: str, value: Any) -> str:
    """An answer alone: what its box holds, where it has one; 2.0 is 2."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(field, f"got {kind(value)}, wanted an answer: text or a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FieldError(field, f"got {value}, wanted a finite number")
        return str(int(value)) if value.is_integer() else repr(value)
    answer = str(value) if isinstance(value, int) else text(field, value)
    return last_boxed(answer) or answer.strip()


def number(values: Mapping[str, Any], field: str, low: float, high: float, default: float) -> float:
    value = values.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(field, f"got {kind(value)}, wanted a number")
    if not (math.isfinite(value) and low <= value <= high):
        wanted = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or above"
        raise FieldError(field, f"got {value}, wanted a finite number {wanted}")
    return float(value)


def last_boxed(solution: str) -> str | None:
    r"""What the last closed \boxed{...} holds; None where there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", solution)]):
        depth = 1
        for at in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[at], 0) if solution[at - 1] != "\\" else 0
            if not depth:
                return solution[start:at].strip() or None
    return None


def flags(values: Mapping[str, Any], field: str, traces: int) -> list[bool | None]:
    """One value may stand for all traces; a null says nothing."""
    marks = values[field] if isinstance(values[field], list) else [values[field]] * traces
    if len(marks) != traces or any(mark is not None and not isinstance(mark, bool) for mark in marks):
        raise FieldError(field, f"got {marks!r:.60}, wanted true or false for each of {traces} traces")
    return marks


def label(field: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise FieldError(field, f"got {kind(value)}, wanted text or a number")
    return str(value).lower() if isinstance(value, bool) else str(value)
