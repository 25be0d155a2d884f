r"""One row, in whatever form it comes, to one parsed row.

Forms are told apart by their columns; the first that fits counts. BOXED: what the last \boxed{} of `solution` holds.

    form               columns                                     prompt                 response    gold
    verl               prompt, reward_model.ground_truth           prompt                 -           the ground truth
    traces             problem | question, TRACES (a list)         problem | question     each        ANSWER | BOXED
    messages           messages                                    all but the last       the last    ANSWER | BOXED
    sharegpt           conversations (from, value), system         all but the last       the last    ANSWER | BOXED
    prompt_completion  prompt, completion | response               prompt                 completion  ANSWER | BOXED
    prompt_only        prompt, ANSWER | solution                   prompt                 -           ANSWER | BOXED | *
    alpaca             instruction, input, output, system, history instruction + input    output      ANSWER | BOXED
    gsm8k              question, answer ending in "#### N"         question               from answer N
    maths              problem | question, TRACE | ANSWER          problem | question     TRACE       ANSWER | BOXED

    ANSWER: answer | gold | ground_truth | final_answer.  TRACE: generation | trace | response | output | solution.
    TRACES: generations | traces | responses | response.  *: else the whole solution.
    A prompt is text or messages. A conversation that ends with the user's turn has no response.

Columns that any form may have:

    weight       a number, 0 or above: the weight of the example's loss
    pass_rate    a number, 0 to 1; else the share of correct generations, where two or more are marked
    correctness  true or false for each trace: correctness_math_verify | correctness | is_correct | correct; OpenR1's
                 correctness_llama where that says nothing. What is_reasoning_complete denies is not correct.
    id           id | uuid | problem_id | unique_id; else <file>-<row>
    labels       an object; and scalars named source, data_source, difficulty, level, grade, subject, type,
                 problem_type, ability
    reference    a correct trace; else the shortest trace marked correct; else the only trace, where it has no mark

A missing column and a null are the same. What would be lost without a word (images, tool calls, losses for each
message) is a fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from postgrad.data.rows import Row, kind
from postgrad.records import Message

Role = Literal["system", "user", "assistant", "tool"]

QUESTION = ("problem", "question")
ANSWER = ("answer", "gold", "ground_truth", "final_answer")
TRACE = ("generation", "trace", "response", "output", "solution")
TRACES = ("generations", "traces", "responses", "response")
MARKS = ("correctness_math_verify", "correctness", "is_correct", "correct")
ID = ("id", "uuid", "problem_id", "unique_id")
LABELS = ("source", "data_source", "difficulty", "level", "grade", "subject", "type", "problem_type", "ability")
LOST = ("images", "image", "videos", "audio", "tools", "chosen", "rejected")
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


@dataclass(frozen=True, slots=True)
class Parsed:
    form: str
    file: Path
    number: int
    """The row's, from 1."""
    id: str
    prompt: tuple[Message, ...]
    traces: tuple[str, ...]
    correct: tuple[bool | None, ...]
    gold: str | None
    reference: str | None
    weight: float
    pass_rate: float | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Body:
    """What the columns of a form say; the rest is common to all forms."""

    prompt: tuple[Message, ...]
    traces: tuple[str, ...] = ()
    gold: str | None = None


def parse(row: Row) -> Parsed:
    """Raises FieldError."""
    values = {name: value for name, value in row.values.items() if value is not None}
    for name in LOST:
        if values.get(name):
            raise FieldError(name, "is not supported; remove the column to train without it")
    form = form_of(values)
    body = FORMS[form](values)
    if not any(message.role == "user" for message in body.prompt):
        raise FieldError("prompt", "got no user's message, wanted at least one")
    correct = _marks(values, len(body.traces))
    return Parsed(
        form=form,
        file=row.file,
        number=row.number,
        id=next((_label(name, values[name]) for name in ID if name in values), f"{row.file.stem}-{row.number}"),
        prompt=body.prompt,
        traces=body.traces,
        correct=correct,
        gold=body.gold,
        reference=_reference(values, body.traces, correct),
        weight=_number(values, "weight", 0, math.inf, 1.0),
        pass_rate=_pass_rate(values, correct),
        labels=_labels(values),
    )


def form_of(values: Mapping[str, Any]) -> str:
    """The name of the form; raises FieldError where no form fits."""
    names = values.keys()
    answer = values.get("answer")
    asked = any(name in names for name in QUESTION)
    solved = any(name in names for name in (*ANSWER, *TRACE))
    # A calculator's mark is GSM8K's: without "####" such a row is a broken one of this form.
    reasoned = isinstance(answer, str) and bool(re.search(r"####|<<", answer)) and not names & set(TRACE)
    fits = {
        "verl": {"prompt", "reward_model"} <= names,
        "traces": asked and _list_of_traces(values) is not None,
        "messages": "messages" in names,
        "sharegpt": "conversations" in names,
        "prompt_completion": "prompt" in names and ("completion" in names or "response" in names),
        "prompt_only": "prompt" in names and any(name in names for name in (*ANSWER, "solution")),
        "alpaca": {"instruction", "output"} <= names,
        "gsm8k": "question" in names and reasoned,
        "maths": asked and solved,
    }
    for form, fit in fits.items():
        if fit:
            return form
    got = ", ".join(sorted(names)) or "none"
    raise FieldError("columns", f"got {got}; wanted those of a form: {', '.join(fits)} (see postgrad/data/forms.py)")


def _verl(values: Mapping[str, Any]) -> Body:
    model = values["reward_model"]
    if not isinstance(model, Mapping):
        raise FieldError("reward_model", f"got {kind(model)}, wanted an object with ground_truth")
    return Body(_prompt(values["prompt"]), gold=_gold("reward_model.ground_truth", model.get("ground_truth")))


def _list_of_traces(values: Mapping[str, Any]) -> str | None:
    return next((name for name in TRACES if isinstance(values.get(name), list)), None)


def _traces(values: Mapping[str, Any]) -> Body:
    field = _list_of_traces(values)
    assert field is not None, "form_of saw it"
    if not values[field]:
        raise FieldError(field, "got an empty list, wanted traces")
    traces = tuple(text(f"{field}[{at}]", trace) for at, trace in enumerate(values[field]))
    return Body(_question(values), traces, _answer(values))


def _messages(values: Mapping[str, Any]) -> Body:
    return _conversation("messages", messages("messages", values["messages"]), values)


def _sharegpt(values: Mapping[str, Any]) -> Body:
    turns = messages("conversations", values["conversations"], role="from", content="value")
    return _conversation("conversations", _system(values) + turns, values)


def _conversation(field: str, turns: tuple[Message, ...], values: Mapping[str, Any]) -> Body:
    if turns[-1].role == "user":
        return Body(turns, gold=_answer(values))
    if turns[-1].role != "assistant":
        raise FieldError(field, f"the last message is the {turns[-1].role}'s, wanted the assistant's")
    return Body(turns[:-1], (turns[-1].content,), _answer(values))


def _prompt_completion(values: Mapping[str, Any]) -> Body:
    field = "completion" if "completion" in values else "response"
    completion = values[field]
    if isinstance(completion, list):
        turns = messages(field, completion)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise FieldError(
                field, f"got messages of {', '.join(turn.role for turn in turns)}, wanted one of the assistant"
            )
        completion = turns[0].content
    return Body(_prompt(values["prompt"]), (text(field, completion),), _answer(values))


def _prompt_only(values: Mapping[str, Any]) -> Body:
    gold = _answer(values)
    if gold is None and "solution" in values:
        gold = _gold("solution", values["solution"])
    return Body(_prompt(values["prompt"]), gold=gold)


def _alpaca(values: Mapping[str, Any]) -> Body:
    asked = text("instruction", values["instruction"])
    if values.get("input"):
        asked += "\n" + text("input", values["input"])
    past: list[Message] = []
    for at, pair in enumerate(values.get("history", [])):
        if not isinstance(pair, list) or len(pair) != 2:
            raise FieldError(f"history[{at}]", f"got {kind(pair)}, wanted a pair of instruction and output")
        asked_before, answered = (text(f"history[{at}]", said) for said in pair)
        past += [Message("user", asked_before), Message("assistant", answered)]
    return Body((*_system(values), *past, Message("user", asked)), (text("output", values["output"]),), _answer(values))


def _gsm8k(values: Mapping[str, Any]) -> Body:
    answer = text("answer", values["answer"])
    return Body(_question(values), (gsm8k_response(answer),), gsm8k_gold(answer))


def _maths(values: Mapping[str, Any]) -> Body:
    field = next((name for name in TRACE if name in values), None)
    return Body(_question(values), () if field is None else (text(field, values[field]),), _answer(values))


FORMS: Mapping[str, Callable[[Mapping[str, Any]], Body]] = {
    "verl": _verl,
    "traces": _traces,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "prompt_only": _prompt_only,
    "alpaca": _alpaca,
    "gsm8k": _gsm8k,
    "maths": _maths,
}


def gsm8k_gold(answer: str) -> str:
    """The number behind "####", without the commas that group its digits."""
    _, mark, number = answer.rpartition("####")
    number = number.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", number):
        raise FieldError("answer", f"got an end of {answer[-40:]!r}, wanted '#### N' with a number N")
    return number


def gsm8k_response(answer: str) -> str:
    """GSM8K's reasoning in the recipe's form: the boxed answer stands before </think>, where sampling may stop."""
    reasoning = re.sub(r"<<.*?>>", "", answer.rpartition("####")[0]).strip()
    return f"<think>\n{reasoning}\n\n\\boxed{{{gsm8k_gold(answer)}}}\n</think>"


def last_boxed(solution: str) -> str | None:
    r"""What the last closed \boxed{...} holds; None where there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", solution)]):
        depth = 1
        for at in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[at], 0) if solution[at - 1] != "\\" else 0
            if not depth:
                return solution[start:at].strip() or None
    return None


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
        raise FieldError(
            field, f"got half a surrogate pair at character {error.start + 1}, wanted valid text"
        ) from None
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
            raise FieldError(
                f"{field}.{name}", "is not supported; use the row's weight, or remove it to train without it"
            )
    known = ROLES.get(turn[role]) if isinstance(turn.get(role), str) else None
    if known is None:
        raise FieldError(f"{field}.{role}", f"got {turn.get(role)!r}, wanted one of {', '.join(ROLES)}")
    said = text(f"{field}.{content}", turn.get(content))
    if known == "assistant" and turn.get("reasoning_content"):
        said = f"<think>\n{text(f'{field}.reasoning_content', turn['reasoning_content']).strip()}\n</think>\n\n{said}"
    return Message(known, said)


def _prompt(value: Any) -> tuple[Message, ...]:
    return messages("prompt", value) if isinstance(value, list) else (Message("user", text("prompt", value)),)


def _question(values: Mapping[str, Any]) -> tuple[Message, ...]:
    field = next(name for name in QUESTION if name in values)
    return (Message("user", text(field, values[field])),)


def _system(values: Mapping[str, Any]) -> tuple[Message, ...]:
    return (Message("system", text("system", values["system"])),) if values.get("system") else ()


def _answer(values: Mapping[str, Any]) -> str | None:
    """None where no column holds an answer; one that holds something unusable is a fault."""
    for name in ANSWER:
        if name in values:
            return _gold(name, values[name])
    solution = values.get("solution")
    return last_boxed(solution) if isinstance(solution, str) else None


def _gold(field: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(field, f"got {kind(value)}, wanted an answer: text or a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FieldError(field, f"got {value}, wanted a finite number")
        return str(int(value)) if value.is_integer() else repr(value)
    gold = str(value) if isinstance(value, int) else text(field, value)
    return last_boxed(gold) or gold.strip()


def _number(values: Mapping[str, Any], field: str, low: float, high: float, default: float) -> float:
    value = values.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(field, f"got {kind(value)}, wanted a number")
    if not (math.isfinite(value) and low <= value <= high):
        wanted = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or above"
        raise FieldError(field, f"got {value}, wanted a finite number {wanted}")
    return float(value)


def _marks(values: Mapping[str, Any], traces: int) -> tuple[bool | None, ...]:
    columns = [_flags(values, name, traces) for name in MARKS if name in values]
    if "correctness_llama" in values:
        columns.append(_flags(values, "correctness_llama", traces))
    marks: list[bool | None] = [None] * traces
    for column in columns:
        marks = [new if mark is None else mark for mark, new in zip(marks, column, strict=True)]
    if "is_reasoning_complete" in values:
        complete = _flags(values, "is_reasoning_complete", traces)
        marks = [False if done is False else mark for done, mark in zip(complete, marks, strict=True)]
    return tuple(marks)


def _flags(values: Mapping[str, Any], field: str, traces: int) -> list[bool | None]:
    flags = values[field] if isinstance(values[field], list) else [values[field]] * traces
    if len(flags) != traces or any(flag is not None and not isinstance(flag, bool) for flag in flags):
        raise FieldError(field, f"got {flags!r:.60}, wanted true or false for each of {traces} traces")
    return flags


def _pass_rate(values: Mapping[str, Any], correct: tuple[bool | None, ...]) -> float | None:
    if "pass_rate" in values:
        return _number(values, "pass_rate", 0, 1, 0)
    known = [mark for mark in correct if mark is not None]
    return sum(known) / len(known) if len(known) >= 2 else None


def _reference(values: Mapping[str, Any], traces: tuple[str, ...], correct: tuple[bool | None, ...]) -> str | None:
    if "reference" in values:
        return text("reference", values["reference"])
    right = [trace for trace, mark in zip(traces, correct, strict=True) if mark]
    if right:
        return min(right, key=len)
    return traces[0] if correct == (None,) else None


def _label(field: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise FieldError(field, f"got {kind(value)}, wanted text or a number")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _labels(values: Mapping[str, Any]) -> dict[str, str]:
    given = values.get("labels", {})
    if isinstance(given, list) and all(isinstance(pair, tuple) for pair in given):
        given = dict(given)  # a map column of a table
    if not isinstance(given, Mapping):
        raise FieldError("labels", f"got {kind(given)}, wanted an object of names and values")
    named = {name: values[name] for name in LABELS if isinstance(values.get(name), str | int | float)}
    named |= {str(name): value for name, value in given.items() if value is not None}
    return {name: _label(f"labels.{name}", value) for name, value in named.items()}
