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
    clinical           case, reasoning, answer                     case                   THOUGHT     -
    pubmedqa           QUESTION, CONTEXTS, final_decision          contexts, question     LONG        A, B or C
    medreason          question, reasoning, answer; OPTIONS        question, options      THOUGHT     the letter | -
    choice             question, OPTIONS, LETTER                   question, options      -           the letter
    gsm8k              question, answer ending in "#### N"         question               from answer N
    maths              problem | question, TRACE | ANSWER          problem | question     TRACE       ANSWER | BOXED

    ANSWER: answer | gold | ground_truth | final_answer.  TRACE: generation | trace | response | output | solution.
    TRACES: generations | traces | responses | response.  *: else the whole solution.
    A prompt is text or messages. A conversation that ends with the user's turn has no response.

Clinical forms: case/reasoning/answer as in TachyHealth/structured_medical, whose answers are prose that nothing checks; MedReason, whose
rows have options or prose for an answer; questions with options as in MedQA, MedMCQA, MMLU and MMLU-Pro; PubMedQA with its labels yes, no, maybe as options.

    OPTIONS: options as {letter: text}, a list, or one text of lines "A. ..."; opa, opb, opc ...; choices
    LETTER: answer_idx | answer_letter | cop | answer_index | answer | answerKey: a letter, a place from 0, or an option's own text
    THOUGHT: "<think>", reasoning, "</think>", answer; of a choice, its boxed letter.  LONG: the same, of LONG_ANSWER

Columns that any form may have:

    weight       a number, 0 or above: the weight of the example's loss
    pass_rate    a number, 0 to 1; else the share of correct generations, where two or more are marked
    correctness  true or false for each trace: correctness_math_verify | correctness | is_correct | correct; OpenR1's
                 correctness_llama where that says nothing. What is_reasoning_complete denies is not correct.
    id           id | uuid | problem_id | unique_id | realidx | pmid; else <file>-<row>
    labels       an object; and scalars named source, data_source, difficulty, level, grade, subject, type,
                 problem_type, ability, category, meta_info, dataset_name
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
from typing import Any

from postgrad.data import fields, gsm8k
from postgrad.data.fields import FieldError
from postgrad.data.rows import Row, kind
from postgrad.options import LETTERS, question
from postgrad.records import Message

QUESTION = ("problem", "question")
ANSWER = ("answer", "gold", "ground_truth", "final_answer")
TRACE = ("generation", "trace", "response", "output", "solution")
TRACES = ("generations", "traces", "responses", "response")
MARKS = ("correctness_math_verify", "correctness", "is_correct", "correct")
ID = ("id", "uuid", "problem_id", "unique_id", "realidx", "pmid")
LABELS = (
    "source", "data_source", "difficulty", "level", "grade", "subject", "type", "problem_type", "ability", "category",
    "meta_info", "dataset_name",
)  # fmt: skip
LETTER = ("answer_idx", "answer_letter", "cop", "answer_index", "answer", "answerKey")
DECISIONS = ("yes", "no", "maybe")
LOST = ("images", "image", "videos", "audio", "tools", "chosen", "rejected")


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
        id=next((fields.label(name, values[name]) for name in ID if name in values), f"{row.file.stem}-{row.number}"),
        prompt=body.prompt,
        traces=body.traces,
        correct=correct,
        gold=body.gold,
        reference=_reference(values, body.traces, correct),
        weight=fields.number(values, "weight", 0, math.inf, 1.0),
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
        "clinical": {"case", "reasoning", "answer"} <= names,
        "pubmedqa": {"QUESTION", "CONTEXTS", "final_decision"} <= names,
        "medreason": {"question", "reasoning", "answer"} <= names,
        "choice": "question" in names and bool(names & {"options", "choices", "opa"}) and bool(names & set(LETTER)),
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


def _clinical(values: Mapping[str, Any]) -> Body:
    asked = (Message("user", fields.text("case", values["case"])),)
    return Body(asked, (_thought("reasoning", values["reasoning"], fields.text("answer", values["answer"])),))


def _pubmedqa(values: Mapping[str, Any]) -> Body:
    contexts, decision = values["CONTEXTS"], values["final_decision"]
    if not isinstance(contexts, list) or not contexts:
        raise FieldError("CONTEXTS", f"got {'none' if contexts == [] else kind(contexts)}, wanted a list of paragraphs")
    if decision not in DECISIONS:
        raise FieldError("final_decision", f"got {decision!r}, wanted one of {', '.join(DECISIONS)}")
    read = "\n".join(fields.text(f"CONTEXTS[{at}]", paragraph) for at, paragraph in enumerate(contexts))
    asked = question(f"{read}\n\n{fields.text('QUESTION', values['QUESTION'])}", DECISIONS)
    letter = LETTERS[DECISIONS.index(decision)]
    said = (_thought("LONG_ANSWER", values["LONG_ANSWER"], _boxed(letter)),) if "LONG_ANSWER" in values else ()
    return Body((Message("user", asked),), said, letter)


def _medreason(values: Mapping[str, Any]) -> Body:
    if values.get("options"):
        asked = _choice(values)
        return Body(asked.prompt, (_thought("reasoning", values["reasoning"], _boxed(asked.gold or "")),), asked.gold)
    answer = fields.text("answer", values["answer"])
    return Body(_question(values), (_thought("reasoning", values["reasoning"], answer),))


def _choice(values: Mapping[str, Any]) -> Body:
    options = _options(values)
    letter = _letter(values, options)
    try:
        asked = question(fields.text("question", values["question"]), options)
    except ValueError as error:
        raise FieldError("options", str(error)) from None
    return Body((Message("user", asked),), gold=letter)


def _options(values: Mapping[str, Any]) -> list[str]:
    """Texts in the order of their letters."""
    if "opa" in values:
        return [fields.text(f"op{letter}", values[f"op{letter}"]) for letter in "abcdefghij" if f"op{letter}" in values]
    field = "options" if "options" in values else "choices"
    given = values[field]
    if isinstance(given, str):
        # The last option ends with the text.
        parts = re.split(r"(?m)^[ \t]*(?:Answer Choices:[ \t]*)?([A-J])[.):][ \t]+", given.strip())
        given = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    if isinstance(given, Mapping):
        # A table's column has every letter that any row has.
        named = {str(letter): option for letter, option in given.items() if option is not None}
        if not named or sorted(named) != list(LETTERS[: len(named)]):
            raise FieldError(
                field, f"got the letters {', '.join(sorted(named)) or 'none'}, wanted A, B, C and so on without a gap"
            )
        given = [named[letter] for letter in LETTERS[: len(named)]]
    if not isinstance(given, list):
        raise FieldError(field, f"got {kind(given)}, wanted an object, a list or lines of options")
    if not 2 <= len(given) <= len(LETTERS):
        raise FieldError(field, f"got {len(given)} options, wanted 2 to {len(LETTERS)}")
    return [fields.text(f"{field}.{letter}", option).strip() for letter, option in zip(LETTERS, given, strict=False)]


def _letter(values: Mapping[str, Any], options: list[str]) -> str:
    field = next(name for name in LETTER if name in values)
    value = values[field]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return LETTERS[value]
    if isinstance(value, str) and value.strip() in LETTERS[: len(options)] and len(value.strip()) == 1:
        return value.strip()
    if isinstance(value, str) and (same := [at for at, option in enumerate(options) if _agrees(value, option)]):
        if len(same) == 1:
            return LETTERS[same[0]]
        raise FieldError(field, f"got {value[:60]!r}, which {len(same)} options say")
    wanted = f"one of the letters A to {LETTERS[len(options) - 1]}, a place from 0, or an option's text"
    raise FieldError(field, f"got {value!r:.60}, wanted {wanted}")


def _agrees(answer: str, option: str) -> bool:
    """MedReason's answers go on behind the option: "Urethral stricture. Explanation: ..."."""
    said, text = answer.strip().casefold(), option.casefold().rstrip(".")
    return said.rstrip(".") == text or said.startswith(f"{text}. ")


def _thought(field: str, reasoning: Any, answer: str) -> str:
    return f"<think>\n{fields.text(field, reasoning).strip()}\n</think>\n\n{answer}"


def _boxed(letter: str) -> str:
    return f"\\boxed{{{letter}}}"


def _list_of_traces(values: Mapping[str, Any]) -> str | None:
    return next((name for name in TRACES if isinstance(values.get(name), list)), None)


def _traces(values: Mapping[str, Any]) -> Body:
    field = _list_of_traces(values)
    assert field is not None, "form_of saw it"
    if not values[field]:
        raise FieldError(field, "got an empty list, wanted traces")
    traces = tuple(fields.text(f"{field}[{at}]", trace) for at, trace in enumerate(values[field]))
    return Body(_question(values), traces, _answer(values))


def _messages(values: Mapping[str, Any]) -> Body:
    return _conversation("messages", fields.messages("messages", values["messages"]), values)


def _sharegpt(values: Mapping[str, Any]) -> Body:
    turns = fields.messages("conversations", values["conversations"], role="from", content="value")
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
        turns = fields.messages(field, completion)
        if len(turns) != 1 or turns[0].role != "assistant":
            got = ", ".join(turn.role for turn in turns)
            raise FieldError(field, f"got messages of {got}, wanted one of the assistant")
        completion = turns[0].content
    return Body(_prompt(values["prompt"]), (fields.text(field, completion),), _answer(values))


def _prompt_only(values: Mapping[str, Any]) -> Body:
    gold = _answer(values)
    if gold is None and "solution" in values:
        gold = _gold("solution", values["solution"])
    return Body(_prompt(values["prompt"]), gold=gold)


def _alpaca(values: Mapping[str, Any]) -> Body:
    asked = fields.text("instruction", values["instruction"])
    if values.get("input"):
        asked += "\n" + fields.text("input", values["input"])
    past: list[Message] = []
    history = values.get("history", [])
    if not isinstance(history, list):
        raise FieldError("history", f"got {kind(history)}, wanted a list of pairs of instruction and output")
    for at, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise FieldError(f"history[{at}]", f"got {kind(pair)}, wanted a pair of instruction and output")
        asked_before, answered = (fields.text(f"history[{at}]", said) for said in pair)
        past += [Message("user", asked_before), Message("assistant", answered)]
    return Body(
        (*_system(values), *past, Message("user", asked)), (fields.text("output", values["output"]),), _answer(values)
    )


def _gsm8k(values: Mapping[str, Any]) -> Body:
    answer = fields.text("answer", values["answer"])
    return Body(_question(values), (gsm8k.response(answer),), gsm8k.final(answer))


def _maths(values: Mapping[str, Any]) -> Body:
    field = next((name for name in TRACE if name in values), None)
    return Body(_question(values), () if field is None else (fields.text(field, values[field]),), _answer(values))


FORMS: Mapping[str, Callable[[Mapping[str, Any]], Body]] = {
    "verl": _verl,
    "traces": _traces,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "prompt_only": _prompt_only,
    "alpaca": _alpaca,
    "clinical": _clinical,
    "pubmedqa": _pubmedqa,
    "medreason": _medreason,
    "choice": _choice,
    "gsm8k": _gsm8k,
    "maths": _maths,
}


def _prompt(value: Any) -> tuple[Message, ...]:
    return (
        fields.messages("prompt", value)
        if isinstance(value, list)
        else (Message("user", fields.text("prompt", value)),)
    )


def _question(values: Mapping[str, Any]) -> tuple[Message, ...]:
    field = next(name for name in QUESTION if name in values)
    return (Message("user", fields.text(field, values[field])),)


def _system(values: Mapping[str, Any]) -> tuple[Message, ...]:
    return (Message("system", fields.text("system", values["system"])),) if values.get("system") else ()


def _gold(field: str, value: Any) -> str:
    """An answer may still carry GSM8K's reasoning."""
    return gsm8k.final(value, field) if isinstance(value, str) and "####" in value else fields.gold(field, value)


def _answer(values: Mapping[str, Any]) -> str | None:
    """None where no column holds an answer; one that holds something unusable is a fault."""
    for name in ANSWER:
        if name in values:
            return _gold(name, values[name])
    solution = values.get("solution")
    return fields.last_boxed(solution) if isinstance(solution, str) else None


def _marks(values: Mapping[str, Any], traces: int) -> tuple[bool | None, ...]:
    columns = [fields.flags(values, name, traces) for name in MARKS if name in values]
    if "correctness_llama" in values:
        columns.append(fields.flags(values, "correctness_llama", traces))
    marks: list[bool | None] = [None] * traces
    for column in columns:
        marks = [new if mark is None else mark for mark, new in zip(marks, column, strict=True)]
    if "is_reasoning_complete" in values:
        complete = fields.flags(values, "is_reasoning_complete", traces)
        marks = [False if done is False else mark for done, mark in zip(complete, marks, strict=True)]
    return tuple(marks)


def _pass_rate(values: Mapping[str, Any], correct: tuple[bool | None, ...]) -> float | None:
    if "pass_rate" in values:
        return fields.number(values, "pass_rate", 0, 1, 0)
    known = [mark for mark in correct if mark is not None]
    return sum(known) / len(known) if len(known) >= 2 else None


def _reference(values: Mapping[str, Any], traces: tuple[str, ...], correct: tuple[bool | None, ...]) -> str | None:
    if "reference" in values:
        return fields.text("reference", values["reference"])
    right = [trace for trace, mark in zip(traces, correct, strict=True) if mark]
    if right:
        return min(right, key=len)
    return traces[0] if correct == (None,) else None


def _labels(values: Mapping[str, Any]) -> dict[str, str]:
    given = values.get("labels", {})
    if isinstance(given, list) and all(isinstance(pair, tuple) for pair in given):
        given = dict(given)  # a map column of a table
    if not isinstance(given, Mapping):
        raise FieldError("labels", f"got {kind(given)}, wanted an object of names and values")
    named = {name: values[name] for name in LABELS if isinstance(values.get(name), str | int | float)}
    named |= {str(name): value for name, value in given.items() if value is not None}
    return {name: fields.label(f"labels.{name}", value) for name, value in named.items()}
