"""Messages <-> tokens, and which tokens are trained: the only place that knows chat templates.

A training sequence is exactly what sampling produces: the rendered prompt with its generation header, then the response,
then the end-of-sequence token. So the mask needs no marks in the template, thinking is not stripped by templates that
drop it from past turns, and the trained tokens are those that the engine will be asked to sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.records import Example, Message

THINK = "<think>"


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """True for the tokens whose loss counts: the response and the end-of-sequence token."""


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as the model reads it, up to where its answer begins.

    Raises ValueError where the tokenizer has no chat template or the template renders nothing.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so nothing marks where the answer begins: "
            "add chat_template.jinja to the model's folder, or use the model's chat version"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    if not text.strip():
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} renders an empty prompt for {turns}")
    return text


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"]
    return ids


def encode(tokenizer: Any, example: Example) -> Encoded:
    """Tokens of one supervised row and which of them are trained.

    Raises ValueError, naming the example, where no token would be trained or the tokenizer has no end of sequence.
    """
    text = prompt_text(tokenizer, example.prompt)
    response = example.response
    if text.rstrip().endswith(THINK):
        # Templates such as DeepSeek-R1-Distill's open the thinking themselves, and the line after it.
        opened = text[text.rindex(THINK) :]
        response = response.removeprefix(opened if response.startswith(opened) else THINK)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token: a trained model could never stop"
        )
    prompt: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    if not answer:
        raise ValueError(f"example {example.id!r} has zero trained tokens: its response is {example.response!r}")
    ids = (*prompt, *answer, tokenizer.eos_token_id)
    return Encoded(ids, tuple(position >= len(prompt) for position in range(len(ids))))
