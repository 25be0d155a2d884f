"""Chat templates: where the answer begins, which tokens are trained, and what is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from postgrad import chat
from postgrad.domains import arithmetic
from postgrad.records import Example, Message

ASK = (Message("user", "take 1 (1)+2 mod 10"),)
R1 = arithmetic.CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
R1_ON_ONE_LINE = arithmetic.CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")


def tokenizer_with(template: str | None) -> Any:
    made = arithmetic.tokenizer()
    made.chat_template = template
    made.name_or_path = "models/mine"
    return made


def text_of(tokenizer: Any, encoded: chat.Encoded) -> tuple[str, str]:
    """(context, trained)."""
    split = encoded.trained.index(True)
    assert all(encoded.trained[split:])
    assert not any(encoded.trained[:split])
    return tokenizer.decode(encoded.ids[:split]), tokenizer.decode(encoded.ids[split:])


def test_the_response_and_the_end_of_sequence_are_trained_and_nothing_else(tokenizer: Any) -> None:
    prompt = (Message("system", "be brief"), *ASK)
    context, trained = text_of(tokenizer, chat.encode(tokenizer, Example(prompt, "<think>3</think>")))
    assert context == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\ntake 1 (1)+2 mod 10<|im_end|>\n<|im_start|>assistant\n"
    )
    assert trained == "<think>3</think><|im_end|>"


def test_a_training_sequence_begins_with_the_ids_that_the_engine_is_given(tokenizer: Any) -> None:
    encoded = chat.encode(tokenizer, Example(ASK, "3"))
    prompt = chat.prompt_ids(tokenizer, ASK)
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert len(encoded.ids) == len(prompt) + 2


def test_thinking_of_past_turns_stays_where_templates_would_drop_it(tokenizer: Any) -> None:
    prompt = (*ASK, Message("assistant", "<think>3</think>"), *ASK)
    assert "<think>3</think>" in text_of(tokenizer, chat.encode(tokenizer, Example(prompt, "4")))[0]


@pytest.mark.parametrize(
    ("template", "response", "trained"),
    [
        (R1, "<think>\nfirst</think>", "first</think><|im_end|>"),
        (R1, "<think>first</think>", "first</think><|im_end|>"),
        (R1, "first</think>", "first</think><|im_end|>"),
        (R1_ON_ONE_LINE, "<think>\nfirst</think>", "\nfirst</think><|im_end|>"),
        (arithmetic.CHAT_TEMPLATE, "<think>\nfirst</think>", "<think>\nfirst</think><|im_end|>"),
    ],
)
def test_a_template_that_opens_the_thinking_does_not_open_it_twice(template: str, response: str, trained: str) -> None:
    tokenizer = tokenizer_with(template)
    context, found = text_of(tokenizer, chat.encode(tokenizer, Example(ASK, response)))
    assert found == trained
    assert (context + found).count("<think>") == 1


def test_a_think_that_the_question_mentions_is_not_taken_for_an_opening(tokenizer: Any) -> None:
    asked = Example((Message("user", "what does <think>"),), "<think>3</think>")
    assert text_of(tokenizer, chat.encode(tokenizer, asked))[1] == "<think>3</think><|im_end|>"


def test_no_chat_template() -> None:
    with pytest.raises(ValueError, match=r"tokenizer of 'models/mine' has no chat template.*add chat_template.jinja"):
        chat.encode(tokenizer_with(None), Example(ASK, "3"))


def test_a_template_that_renders_nothing() -> None:
    with pytest.raises(ValueError, match=r"chat template of 'models/mine' renders an empty prompt for .*take 1"):
        chat.prompt_text(tokenizer_with("{% if false %}{{ messages }}{% endif %} \n"), ASK)


@pytest.mark.parametrize(("template", "response"), [(arithmetic.CHAT_TEMPLATE, ""), (R1, "<think>"), (R1, "<think>\n")])
def test_nothing_to_train(template: str, response: str) -> None:
    with pytest.raises(ValueError, match="example 'row-7' has zero trained tokens: its response is "):
        chat.encode(tokenizer_with(template), Example(ASK, response, id="row-7"))


def test_no_end_of_sequence() -> None:
    tokenizer = copy.deepcopy(tokenizer_with(arithmetic.CHAT_TEMPLATE))
    tokenizer.eos_token = None
    with pytest.raises(
        ValueError, match="tokenizer of 'models/mine' has no eos_token: a trained model could never stop"
    ):
        chat.encode(tokenizer, Example(ASK, "3"))
