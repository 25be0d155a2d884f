"""`postgrad eval` on questions with options: by letter, in several orders, from a folder and from an endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from postgrad import evaluate
from postgrad.options import asked
from postgrad.records import Message, Problem, Trace, write_jsonl
from tests.sample.fake_api import running

ROWS = Path(__file__).parent / "data" / "medical" / "medqa.jsonl"
HOW: dict[str, Any] = {
    "samples": 1, "max_tokens": 6, "temperature": 1.0, "limit": None, "seed": 0, "out": None, "system": None, "turns": 1,
    "name": None, "key_variable": None,
}  # fmt: skip


def says(answer: Any) -> Any:
    """In place of evaluate._sampler: a sampler whose traces are `answer(question's text)`."""

    class Sampler:
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            return [[Trace(one.id, answer(one.prompt[-1].content), (1,), (0.0,), "stop")] * n for one in problems]

    @contextmanager
    def sampler(*_: Any) -> Any:
        yield Sampler(), True

    return sampler


def last_by_alphabet(text: str) -> str:
    found = asked(text)
    assert found is not None
    return f"\\boxed{{{'ABCD'[max(range(4), key=lambda at: found.options[at])]}}}"


def test_who_knows_the_option_is_consistent_and_who_likes_a_letter_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name, answer in {
        "last by alphabet": last_by_alphabet,
        "first": lambda _: "Answer: A",
        "mute": lambda _: "Well.",
    }.items():
        monkeypatch.setattr(evaluate, "_sampler", says(answer))
        found[name] = evaluate.measure(name, ROWS, **HOW | {"turns": 4})
    assert [found[name]["consistent"]["value"] for name in found] == [1.0, 0.0, 0.0]
    assert found["first"]["accuracy"]["value"] == 0.25, "in four orders every letter is right once"
    assert (found["mute"]["unparsed"]["value"], found["mute"]["no_answer"], found["mute"]["unchecked"]) == (1.0, 24, 0)
    assert found["mute"]["accuracy"]["value"] == 0
    for numbers in found.values():
        assert (numbers["problems"], numbers["turns"], numbers["n"]) == (6, 4, 24)
        assert numbers["consistent"]["n"] == 6
        assert numbers["checked_by"] == "letter"
        assert set(numbers["by_label"]) == {"meta_info"}


def test_boxes_are_for_questions_without_options_which_cannot_be_turned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = tmp_path / "sums.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    monkeypatch.setattr(evaluate, "_sampler", says(lambda _: r"\boxed{2}"))
    found = evaluate.measure("m", rows, **HOW)
    assert (found["checked_by"], found["accuracy"]["value"]) == ("box", 1.0)
    assert "consistent" not in found
    with pytest.raises(
        ValueError, match=r"--turns 2 moves options about, and not all prompts of .*sums.jsonl end in lettered"
    ):
        evaluate.measure("m", rows, **HOW | {"turns": 2})


def test_a_system_message_is_put_before_prompts_that_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Problem] = []

    class Sampler:
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            seen.extend(problems)
            return [[Trace(one.id, "A", (1,), (0.0,), "stop")] * n for one in problems]

    @contextmanager
    def sampler(*_: Any) -> Any:
        yield Sampler(), True

    monkeypatch.setattr(evaluate, "_sampler", sampler)
    evaluate.measure("m", ROWS, **HOW | {"system": "One letter.", "limit": 2})
    assert [one.prompt[0] for one in seen] == [Message("system", "One letter.")] * 2


def test_a_folder_without_knowledge_is_near_chance(tmp_path: Path) -> None:
    """A random model that can say nothing but one of four letters: the path from file to interval, and a fair coin's result."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from postgrad.domains import clinic
    from postgrad.train import model as made

    words = ["A", "B", "C", "D", "<end>", "<unknown>"]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", unk_token="<unknown>", chat_template="{{ messages[-1].content }}"
    )
    shape = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }  # fmt: skip
    model = made.from_scratch(shape, tokenizer, seed=0, dtype=torch.float32, device=torch.device("cpu"))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "clinic.jsonl", clinic.problems(clinic.world(0), "test", 300, seed=0))
    found = evaluate.measure(
        str(tmp_path / "model"), tmp_path / "clinic.jsonl", **HOW | {"max_tokens": 1, "out": tmp_path / "out"}
    )
    assert found["n"] == 300
    assert found["tokens"]["value"] == 1
    spoken = found["n"] - found["no_answer"]
    assert 120 < spoken < 280, "of six words four are letters"
    right = found["accuracy"]["value"] * found["n"]
    assert right / spoken == pytest.approx(0.25, abs=0.1)
    assert found["unparsed"]["value"] == pytest.approx(1 - spoken / 300)
    assert set(found["by_label"]) == {"family", "level", "slice"}
    assert json.loads((tmp_path / "out" / "score.json").read_text()) == found
    assert len((tmp_path / "out" / "traces.jsonl").read_text().splitlines()) == 300


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("http://127.0.0.1:9/v1", {}, "is an address: name the model that it serves with --name"),
        ("http://127.0.0.1:9/v1", {"name": "m"}, "and a folder for its calls with --out"),
        ("some/folder", {"name": "m"}, "--name and --key-variable are for an address, and some/folder is a folder"),
    ],
)
def test_what_an_endpoint_needs(model: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        evaluate.measure(model, ROWS, **HOW | settings)


def test_an_endpoint_tells_no_tokens(tmp_path: Path) -> None:
    with running() as fake:
        found = evaluate.measure(fake.url, ROWS, **HOW | {"name": "m", "out": tmp_path / "out"})
    assert (found["model"], found["n"], found["tokens"]) == ("m", 6, None)
