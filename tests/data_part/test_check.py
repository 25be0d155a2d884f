"""The report on a file, in characters and in a tokenizer's tokens; the coloured mask."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from postgrad.data.check import check
from postgrad.data.overlap import Kind
from postgrad.data.preview import marked, preview, show

SAMPLE = Path(__file__).parents[1] / "data" / "gsm8k_data"
ROWS = [
    {"problem": "1 + 1?", "trace": "aaaa", "answer": "2", "correct": True},
    {"problem": "1+1", "trace": "bb", "answer": "2", "correct": False, "weight": 2},
    {"problem": "2 + 2?", "trace": "c", "weight": 2},
    {"problem": "3 + 3?", "trace": "", "answer": "6"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tokenizer whose tokens are characters, with a template of two around the question."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: n for n, letter in enumerate("?$abc0123456789+ <>")}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="$", unk_token="?")
    fast.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    fast.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_counts_without_a_model_are_in_characters(file: Path) -> None:
    report = check(file, max_length=9)
    assert (report.form, report.rows, report.traces) == ("maths", 3, 3)
    assert report.marked == {"correct": 1, "wrong": 1, "unmarked": 1}
    assert (report.without_gold, report.duplicates, report.overlong) == (1, 1, 1)
    assert report.weights == {1.0: 1, 2.0: 2}
    assert (report.unit, report.lengths[0.0], report.lengths[0.5], report.lengths[1.0]) == ("characters", 5, 7, 10)
    assert [(fault.row, fault.field) for fault in report.faults] == [(4, "trace")]
    assert not report.ok


def test_lengths_with_a_model_hold_the_template_and_the_end(file: Path, model: Path) -> None:
    report = check(file, model, max_length=12)
    assert report.unit == "tokens"
    assert list(report.lengths.values()) == [8, 10, 13, 13, 13]
    assert report.overlong == 1


def test_prompts_are_measured_where_rows_have_no_trace(tmp_path: Path, model: Path) -> None:
    (tmp_path / "rl.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    report = check(tmp_path / "rl.jsonl", model)
    assert (report.lengths[1.0], report.traces, report.ok) == (8, 0, True)


def test_overlap_with_a_test_file() -> None:
    assert check(SAMPLE / "train.jsonl", test=SAMPLE / "test.jsonl").ok
    leaked = check(SAMPLE / "test.jsonl", test=SAMPLE / "test.jsonl")
    assert leaked.overlap is not None
    assert leaked.overlap.counts()[Kind.EXACT] == 20
    assert not leaked.ok


def test_a_missing_file_is_in_the_report(tmp_path: Path) -> None:
    report = check(tmp_path / "none.jsonl")
    assert (report.form, report.rows, report.lengths, report.ok) == (None, 0, {}, False)
    assert "no such file" in str(report)


def test_the_report_as_text_and_as_a_table(file: Path) -> None:
    report = check(file)
    assert "rows          3 read, 1 faults" in str(report)
    assert f"{file}:4: trace: got empty text" in str(report)
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    assert isinstance(console.file, io.StringIO)
    assert "3 read, 1 faults" in console.file.getvalue()
    assert "length        min 5, median 7, 95% 10, 99% 10, max 10 characters" in str(report)


TOKENS, TRAINED = ["<user>", "1 [b]?", "\n", "It", " is", "<end>"], [False, False, False, True, True, True]


def test_preview_colours_the_trained_tokens() -> None:
    text = preview(TOKENS, TRAINED)
    assert text.plain == "3 of 6 tokens are trained\n<user>1 [b]?↵\nIt is<end>"
    green = [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)]
    assert green == ["It", " is", "<end>"]


def test_without_colour_marks_stand_around_what_is_trained() -> None:
    assert marked(TOKENS, TRAINED) == "3 of 6 tokens are trained\n<user>1 [b]?↵\n[[It is<end>]]"
    console = Console(file=io.StringIO(), width=100)
    show(console, TOKENS, TRAINED)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == marked(TOKENS, TRAINED) + "\n"


def test_with_colour_the_marks_are_not_needed() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard", no_color=False)
    show(console, TOKENS, TRAINED)
    assert isinstance(console.file, io.StringIO)
    assert "[[" not in console.file.getvalue()
    assert "\x1b[" in console.file.getvalue()


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        preview(TOKENS, TRAINED[:-1])
