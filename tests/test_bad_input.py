"""What is wrong with what people bring: each ends with a message that names it, with an exit code, and with nothing lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from postgrad import cli
from postgrad.run import Run, read_lines
from postgrad.train import checkpoint, fit
from tests import small_qwen, tiny

ROOT = Path(__file__).parent.parent
DEADLINE_S = 240

# One step of each stage: enough to get past whatever is looked at before training.
BRIEF = (
    "model.scratch=null",
    "data.arithmetic=null",
    "data.files.validation_fraction=0.4",
    "sft.max_steps=2",
    "sft.warmup_steps=1",
    "sft.max_length=128",
    "rl.max_steps=2",
    "rl.warmup_steps=1",
    "rl.prompts_per_step=1",
    "rl.num_generations=2",
    "rl.per_device_train_batch_size=2",
    "rl.max_completion_length=6",
    "rl.rewards.max_length=6",
    "eval.samples=1",
    "eval.max_tokens=6",
    "eval.bootstrap=20",
)
ROWS = [
    {"problem": f"What is {a} + {a}?", "trace": f"It is \\boxed{{{2 * a}}}.", "answer": str(2 * a)} for a in range(3, 9)
]
TESTS = [{"problem": f"How much is {a} times 7?", "answer": str(7 * a)} for a in range(3, 6)]

Prepare = Callable[..., list[str]]


def postgrad(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], prog_name="postgrad")


def told(found: Result) -> str:
    """The message behind "error: ", on one line. There is one, and no traceback."""
    assert "Traceback" not in found.output
    _, error, message = found.stderr.partition("error: ")
    assert error, found.output
    return " ".join(message.split())


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return small_qwen.save(tmp_path_factory.mktemp("models") / "small", [json.dumps(row) for row in ROWS], tokens=300)


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(base, tmp_path / "model"))


@pytest.fixture
def prepare(tmp_path: Path, base: Path) -> Prepare:
    """Words of a `postgrad run` over these files; each of sft, rl and test is rows, lines, or a path."""

    def words(*overrides: str, **given: list[Any] | Path) -> list[str]:
        files = {"sft": ROWS, "rl": ROWS, "test": TESTS} | given
        paths = {
            name: rows if isinstance(rows, Path) else write(tmp_path / f"{name}.jsonl", rows)
            for name, rows in files.items()
        }
        named = [f"data.files.{name}={path}" for name, path in paths.items()]
        return [
            "run",
            "math_two_stage",
            "--out",
            str(tmp_path / "run"),
            *BRIEF,
            f"model.path={base}",
            *named,
            *overrides,
        ]

    return words


def test_what_is_not_bad_is_done(prepare: Prepare) -> None:
    found = postgrad(*prepare())
    assert found.exit_code == 0, found.output
    assert "error: " not in found.stderr


# Rows


@pytest.mark.parametrize("name", ["sft", "rl", "test"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:2], '{"problem": "1 + 1?", "ans', *ROWS[2:]], r"{file}:3: not JSON: Unterminated string"),
        ([*ROWS, {"problem": "1 + 1?"}], r"{file}:7: columns: got problem; wanted those of a form: "),
        ([*ROWS, {**ROWS[0], "problem": ""}], r"{file}:7: problem: got empty text"),
        ([*ROWS, {**ROWS[0], "answer": ["6"]}], r"{file}:7: answer: got a list, wanted an answer: text or a number"),
        ([], r"{file}: empty: got no rows, wanted at least one"),
        (["", ""], r"{file}: empty: got no rows, wanted at least one"),
        (
            [{"question": "1 + 1?", "answer": "2\n#### 2"}, {"question": "1 + 2?", "answer": "It is <<1+2=3>>3."}],
            r"{file}:2: answer: got an end of 'It is <<1+2=3>>3.', wanted '#### N' with a number N",
        ),
        (
            [{"question": f"1 + {n}?", "answer": f"{n + 1}\n#### {n + 1}"} for n in range(3)] + [{"question": "2?", "answer": "2"}],
            r"{file}:4: columns: got the form maths, wanted gsm8k as in 3 other rows",
        ),
    ],
    ids=["broken JSON", "no column", "empty field", "wrong type", "empty file", "blank lines", "no ####", "other form"],
)  # fmt: skip
def test_rows_are_named_by_file_row_and_field(
    prepare: Prepare, tmp_path: Path, name: str, rows: list[Any], message: str
) -> None:
    found = postgrad(*prepare(**{name: rows}))
    assert found.exit_code == 1
    assert message.format(file=tmp_path / f"{name}.jsonl") in told(found)
    assert "sft" not in Run.open(tmp_path / "run").stages(), "nothing was trained"


def test_a_missing_file_has_its_neighbours_named(prepare: Prepare, tmp_path: Path) -> None:
    found = postgrad(*prepare(sft=tmp_path / "tset.jsonl"))
    assert found.exit_code == 1
    assert f"{tmp_path}/tset.jsonl: no such file or folder: did you mean test.jsonl" in told(found)


def test_all_that_is_wrong_is_told_at_once(prepare: Prepare, tmp_path: Path) -> None:
    found = postgrad(*prepare(rl=["{", *ROWS, {**ROWS[0], "weight": -1}, {"text": "x"}]))
    assert found.exit_code == 1
    for place in ("1: not JSON", "8: weight: got -1", "9: columns: got text"):
        assert f"{tmp_path / 'rl.jsonl'}:{place}" in told(found)


# Gold answers


SKY = {"problem": "Why is the sky blue?", "answer": "Because air scatters short waves more than long ones"}
SEA = {"problem": "Why is the sea salty?", "answer": "Because rivers bring what they wash out of the land"}


def test_a_gold_that_cannot_be_read_is_left_out_by_name(prepare: Prepare, tmp_path: Path) -> None:
    found = postgrad(*prepare(rl=[*ROWS, SKY], test=[SEA, *TESTS]))
    assert found.exit_code == 0, found.output
    counts = Run.open(tmp_path / "run").stages()["data"]["result"]
    assert counts["rl_unchecked_gold"] + counts["validation_unchecked_gold"] == 1
    assert (counts["test"], counts["test_unchecked_gold"]) == (3, 1)
    warned = [row["message"] for row in read_lines(tmp_path / "run" / "events.jsonl") if row["level"] == "warning"]
    assert [message.partition(" left out: ")[0] for message in warned][1:] == ["test: problem 'test-1'"]
    assert "problem 'rl-7' left out: its own gold is unchecked: gold is prose" in warned[0]
    assert all(f"warning: {message}" in found.stderr for message in warned)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["models"]["rl"]["n"] == 3


def test_no_gold_that_can_be_read_is_an_error(prepare: Prepare, tmp_path: Path) -> None:
    found = postgrad(*prepare(test=[SEA]))
    assert found.exit_code == 1
    assert "no test problem has a gold answer that can be checked: see events.jsonl" in told(found)
    assert "test: problem 'test-1' left out: its own gold is unchecked" in found.stderr


def test_eval_counts_what_it_could_not_check_apart(base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "test.jsonl", [*TESTS, {"problem": "2?", "answer": "see above"}])
    found = postgrad("eval", base, "--data", rows, "--max-tokens", 4)
    assert found.exit_code == 0, found.output
    numbers = json.loads(found.stdout)
    assert numbers["n"] == 4
    assert numbers["accuracy"]["n"] == 4 - numbers["unchecked"]


# Templates, lengths, tokens


def test_a_tokenizer_without_a_template_is_told_before_the_data_is_read(
    prepare: Prepare, model: Path, tmp_path: Path
) -> None:
    (model / "chat_template.jinja").unlink()
    words = prepare(f"model.path={model}", sft=tmp_path / "none.jsonl")
    found = postgrad(*words)
    assert found.exit_code == 1
    assert f"the tokenizer of '{model}' has no chat template, so nothing marks where the answer begins" in told(found)
    for command in (
        ["eval", model, "--data", tmp_path / "test.jsonl"],
        ["data", "preview", tmp_path / "rl.jsonl", "--model", model],
    ):
        also = postgrad(*command)
        assert (also.exit_code, "has no chat template" in told(also)) == (1, True)


def test_a_template_that_renders_nothing(prepare: Prepare, model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% if false %}{{ messages }}{% endif %}\n")
    found = postgrad(*prepare(f"model.path={model}"))
    assert found.exit_code == 1
    assert f"the chat template of '{model}' renders an empty prompt for [{{'role': 'user', 'content'" in told(found)


def test_zero_trained_tokens(prepare: Prepare, model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}<think>\n")
    found = postgrad(
        *prepare(f"model.path={model}", sft=[*ROWS, {"problem": "1?", "trace": "<think>", "correct": True}])
    )
    assert found.exit_code == 1
    assert "example 'sft-7' has zero trained tokens: its response is '<think>'" in told(found)


def test_a_long_prompt_is_told_before_training(prepare: Prepare, tmp_path: Path) -> None:
    words = {"problem": "What is " + " + ".join(["1"] * 200) + "?", "answer": "200"}
    found = postgrad(*prepare(rl=[*ROWS, words, {**words, "problem": words["problem"] + " Say it."}], test=TESTS))
    assert found.exit_code == 1
    assert re.search(
        r"[12] of [3-7] rl prompts are longer than rl.max_prompt_length=128: first that of problem 'rl-[78]', which has \d{3} tokens",
        told(found),
    ), told(found)
    assert "sft" not in Run.open(tmp_path / "run").stages()


def test_a_long_example_is_an_error_or_is_left_out_and_counted(prepare: Prepare, tmp_path: Path) -> None:
    rows = [*ROWS, {"problem": "What is 1 + 1?", "trace": "Well. " * 60 + "\\boxed{2}", "answer": "2"}]
    found = postgrad(*prepare(sft=rows))
    assert found.exit_code == 1
    assert re.search(
        r"example 'sft-7' has \d+ tokens and a row holds sft.max_length=128: raise it, or set sft.overlong=drop",
        told(found),
    )
    shutil.rmtree(tmp_path / "run")
    found = postgrad(*prepare("sft.overlong=drop", sft=rows))
    assert found.exit_code == 0, found.output
    (event,) = read_lines(tmp_path / "run" / "events.jsonl")
    assert (event["stage"], event["level"]) == ("sft", "warning")
    assert event["message"] == "1 examples are longer than sft.max_length=128 and were left out"


def test_a_long_validation_trace_is_told_before_the_first_step(prepare: Prepare, tmp_path: Path) -> None:
    longer = [{**row, "trace": "Well. " * 60 + row["trace"]} for row in ROWS]
    found = postgrad(*prepare(sft=[{**row, "problem": f"So {row['problem']}"} for row in ROWS], rl=longer))
    assert found.exit_code == 1
    assert "and a row holds sft.max_length=128" in told(found)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.prompts_per_step=5"], "rl problems are fewer than rl.prompts_per_step=5"),
        (
            ["rl.rewards.cosine_similarity=1"],
            "the cosine_similarity reward compares with a reference trace, and 1 problems have none, 'rl-5' first",
        ),
        (["rl.rewards.soft_overlong=1"], "soft_overlong: the buffer (64) must be smaller than max_length (6)"),
    ],
)
def test_what_stage_two_would_refuse_is_told_before_stage_one(
    prepare: Prepare, tmp_path: Path, overrides: list[str], message: str
) -> None:
    bare = {"problem": "What is 9 + 9?", "answer": "18"}
    found = postgrad(*prepare(*overrides, "data.files.validation_fraction=0.01", rl=[*ROWS[:4], bare]))
    assert found.exit_code == 1
    assert message in told(found)
    assert "sft" not in Run.open(tmp_path / "run").stages()


def test_the_test_problems_are_not_to_train_on(prepare: Prepare) -> None:
    found = postgrad(*prepare(rl=TESTS))
    assert found.exit_code == 1
    assert "every rl problem overlaps a test problem: give others" in told(found)


def test_rows_without_weight_are_as_good_as_absent(prepare: Prepare) -> None:
    found = postgrad(*prepare(sft=[{**row, "weight": 0} for row in ROWS]))
    assert found.exit_code == 1
    assert told(found).endswith("3 of weight 0")
    assert "fault in postgrad" not in told(found)


# Models


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer (no tokenizer.json or tokenizer.model)"),
        (("config.json",), "has no config.json, so it is not a Hugging Face model folder"),
        (("model.safetensors",), "model.safetensors"),
    ],
)
def test_a_model_folder_with_something_missing(
    prepare: Prepare, model: Path, tmp_path: Path, missing: tuple[str, ...], message: str
) -> None:
    for name in missing:
        (model / name).unlink()
    before = contents(model)
    found = postgrad(*prepare(f"model.path={model}", sft=tmp_path / "none.jsonl"))
    assert found.exit_code == 1
    assert str(model) in told(found)
    assert message in told(found)
    assert contents(model) == before
    also = postgrad("eval", model, "--data", write(tmp_path / "test.jsonl", TESTS))
    assert (also.exit_code, message in told(also)) == (1, True)


def test_a_damaged_model_file(prepare: Prepare, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = postgrad(*prepare(f"model.path={model}"))
    assert found.exit_code == 1
    assert str(model) in told(found)


def test_a_model_that_is_nowhere(prepare: Prepare, tmp_path: Path) -> None:
    found = postgrad(*prepare(f"model.path={tmp_path / 'nowhere'}"))
    assert found.exit_code == 1
    assert f"{tmp_path / 'nowhere'}" in told(found)
    assert "no such folder" in told(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(prepare: Prepare, tmp_path: Path, device: str) -> None:
    found = postgrad(*prepare(f"model.device={device}", sft=tmp_path / "none.jsonl"))
    assert found.exit_code == 1
    assert f"model.device is '{device}' and torch {torch.__version__} sees no CUDA device: use cpu or auto" in told(
        found
    )


# Words


def test_words_that_name_nothing(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    for command, message in (
        (
            ["run", "math_two_stages"],
            f"no recipe 'math_two_stages'; known recipes: {', '.join(cli.recipes())}; did you mean 'math_two_stage'?",
        ),
        (["run", "math_two_stage", "--preset", "laptp"], "recipe 'math_two_stage' has no preset 'laptp': wanted "),
        (["run", "math_two_stage", "sft.max_step=3"], "unknown key 'sft.max_step'; did you mean 'sft.max_steps'?"),
        (["run", "math_two_stage", "data.files.sft=a"], "data"),
        (["run", "math_two_stage", "rl.num_generations=7"], "is not a multiple of per_device_train_batch_size"),
        (
            ["run", "math_two_stage", "--out", tmp_path / "mine"],
            "mine already exists and is not empty: choose another --out",
        ),
        (["resume", tmp_path / "mine"], "mine is not a run's folder (it has no manifest.json)"),
        (["resume", tmp_path / "nowhere"], "nowhere is not a run's folder (it has no manifest.json)"),
        (["export", tmp_path / "mine", tmp_path / "out", "--to", "hf"], "mine is not a run's folder"),
        (["report", tmp_path / "mine"], "mine is not a run's folder"),
    ):
        found = postgrad(*command)
        assert found.exit_code == 2, (command, found.output)
        assert message in told(found)
    assert contents(tmp_path) == {"mine/notes.txt": hashlib.sha256(b"keep me").hexdigest()}


def test_stage_one_without_rows_is_told_with_its_two_ways_out(prepare: Prepare) -> None:
    words = [word for word in prepare() if not word.startswith("data.files.sft=")]
    found = postgrad(*words)
    assert found.exit_code == 2
    assert "give data.files.sft, rows for stage one, or leave stage one out with sft=null" in told(found)


# While training. The recipe's own arithmetic, from nothing, in a few seconds.

QUICK = (
    *tiny.OVERRIDES,
    "sft.max_steps=8",
    "sft.eval_steps=8",
    "sft.save_steps=2",
    "rl.max_steps=2",
    "rl.eval_steps=2",
    "rl.prompts_per_step=2",
)


def whole(folder: Path) -> list[str]:
    """Names of the stage's checkpoints; every one of them whole."""
    names = sorted(path.name for path in folder.glob("step-*"))
    assert all(checkpoint.is_whole(folder / name) for name in names)
    return names


def resumed(command: str) -> Path:
    """Carry out a message's own words; all steps of both stages are done after it."""
    program, *words = shlex.split(command)
    assert program == "postgrad"
    found = postgrad(*words)
    assert found.exit_code == 0, found.output
    folder = Path(words[-1])
    assert {stage["status"] for stage in Run.open(folder).stages().values()} == {"done"}
    return folder


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in read_lines(folder / "metrics.jsonl")]


def advice(errors: str) -> str:
    return errors.rpartition("continue with: ")[2].strip()


def test_a_loss_that_is_not_a_number_names_step_sample_and_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = fit.update

    def poisoned(model: Any, *rest: Any) -> Any:
        if rest[5] == 6:
            with torch.no_grad():
                model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
        return update(model, *rest)

    monkeypatch.setattr(fit, "update", poisoned)
    out = tmp_path / "run"
    found = postgrad("run", "math_two_stage", "--out", out, *QUICK)
    assert found.exit_code == 1
    sample = re.search(
        r"step 6: the loss is nan in micro-batch 0, sample '([^']+)', tensor token_losses at trained token 0",
        told(found),
    )
    assert sample, told(found)
    assert sample[1] in (out / "data" / "sft.jsonl").read_text()
    assert "model.layers.1.mlp.up_proj.weight" in told(found)
    assert "resume from the last checkpoint" in told(found)
    assert steps(out) == [("sft", step) for step in range(1, 6)], "the broken step is in no log"
    assert whole(out / "checkpoints" / "sft") == ["step-000002", "step-000004"]
    monkeypatch.undo()
    resumed(f"postgrad resume {out}")
    assert steps(out) == [("sft", step) for step in range(1, 9)] + [("rl", 1), ("rl", 2)]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole_run, damaged = tmp_path / "whole", tmp_path / "damaged"
    for out in (whole_run, damaged):
        tiny.start(out, *QUICK[len(tiny.OVERRIDES) :])
    resumed(f"postgrad resume {whole_run}")
    math = checkpoint.write

    def torn(folder: Path, taken: checkpoint.Snapshot, **what: Any) -> Path:
        saved = math(folder, taken, **what)
        if taken.step == 6:
            with (saved / "model.safetensors").open("r+b") as file:
                file.seek(20_000)
                file.write(b"torn")
            raise KeyboardInterrupt
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", torn)
        assert postgrad("resume", damaged).exit_code == 130
    resumed(f"postgrad resume {damaged}")
    for stage in ("sft", "rl"):
        weights = [Run.open(out).stages()[stage]["result"] + "/model.safetensors" for out in (whole_run, damaged)]
        assert weights[0] == weights[1]
        assert (whole_run / weights[0]).read_bytes() == (damaged / weights[1]).read_bytes(), (
            "the same bits from step 4 on"
        )


def test_a_run_goes_on_from_any_folder(
    prepare: Prepare, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = prepare("model.path=model")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", _interrupt)
        assert postgrad(*words).exit_code == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed("postgrad resume ../run")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def in_a_process(words: list[str], errors: Path, step: int, then: Callable[[], object]) -> int | None:
    """`postgrad WORDS` in a process of its own, forked from one that has imported torch so that it starts at once.

    It carries out `then` as soon as it has logged this step of stage one. Returns its exit code.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "postgrad.train.fit", "postgrad.recipes.math_two_stage"])
    process = context.Process(target=_command, args=(words, str(errors), step, then), daemon=True)
    process.start()
    process.join(DEADLINE_S)
    return process.exitcode


def _command(words: list[str], errors: str, step: int, then: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    log = Run.log

    def logged(run: Run, stage: str, at: int, numbers: Any) -> None:
        log(run, stage, at, numbers)
        if (stage, at) == ("sft", step):
            then()

    Run.log = logged  # type: ignore[method-assign]
    with open(errors, "w") as sys.stderr, open(os.devnull, "w") as sys.stdout:
        sys.argv = ["postgrad", *words]
        cli.main()


def fill_the_disk() -> None:
    """No file may grow beyond what logs need and weights exceed, from after the save of step 4 on."""
    for thread in threading.enumerate():
        if thread.name.startswith("save"):
            thread.join()
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, resource.RLIM_INFINITY))


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_in_the_evaluation() -> None:
    asked = Run.stop_if_asked

    def late(run: Run, where: str) -> None:
        if "in the evaluation" in where and "after 0 traces" not in where:
            terminate()
        asked(run, where)

    Run.stop_if_asked = late  # type: ignore[method-assign]


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path) -> None:
    out, errors = tmp_path / "run", tmp_path / "errors"
    assert in_a_process(["run", "math_two_stage", "--out", str(out), *QUICK], errors, 5, fill_the_disk) == 1
    message = " ".join(errors.read_text().split())
    stage = out / "checkpoints" / "sft"
    assert f"error: could not write checkpoint {stage}/step-000006: no room" in message
    assert "Earlier checkpoints are untouched: free some space, or lower save_total_limit, and resume" in message
    assert whole(stage) == ["step-000002", "step-000004"]
    assert (stage / "latest").read_text() == "step-000004\n"
    assert not list(stage.glob(".tmp-*"))
    assert steps(out) == [("sft", step) for step in range(1, 9)], "told of when step 8 was to be saved"
    resumed(f"postgrad resume {out}")
    assert steps(out) == [("sft", step) for step in range(1, 9)] + [("rl", 1), ("rl", 2)]


def test_sigterm_saves_and_exits_75(tmp_path: Path) -> None:
    out, errors = tmp_path / "run of mine", tmp_path / "errors"
    assert in_a_process(["run", "math_two_stage", "--out", str(out), *QUICK], errors, 3, terminate) == 75
    saved = out / "checkpoints" / "sft" / "step-000003"
    assert f"stopped by SIGTERM after step 3 of 8 of sft; saved in {saved}\n" in errors.read_text()
    assert whole(saved.parent) == ["step-000002", "step-000003"]
    assert steps(out) == [("sft", 1), ("sft", 2), ("sft", 3)], "not a step is lost"
    assert resumed(advice(errors.read_text())) == out
    assert steps(out) == [("sft", step) for step in range(1, 9)] + [("rl", 1), ("rl", 2)]


def test_sigterm_in_the_evaluation_is_heard(tmp_path: Path) -> None:
    out, errors = tmp_path / "run", tmp_path / "errors"
    words = ["run", "math_two_stage", "--out", str(out), *QUICK]
    assert in_a_process(words, errors, 1, terminate_in_the_evaluation) == 75
    stopped = r"stopped by SIGTERM in the evaluation, after \d+ traces; what is finished is kept\n"
    assert re.search(stopped, errors.read_text())
    assert advice(errors.read_text()) == f"postgrad resume {out}"
    assert {name: stage["status"] for name, stage in Run.open(out).stages().items()} == {
        "base": "done", "data": "done", "sft": "done", "rl": "done", "eval": "running",
    }  # fmt: skip


def wait_for(steps_: int, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not (folder / "metrics.jsonl").is_file() or len(steps(folder)) < steps_:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def module(*words: object) -> Iterator[subprocess.Popen[str]]:
    """`python -m postgrad WORDS`, as a shell starts it; ended with the block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "postgrad", *map(str, words)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_saves_exits_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with module("run", "math_two_stage", "--out", out, *QUICK, "sft.max_steps=100", "sft.save_steps=100") as process:
        wait_for(3, out, process)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert "Ctrl-C: saving after this step; once more stops at once, without saving\n" in errors
    assert re.search(r"stopped by Ctrl-C after step \d+ of 100 of sft; saved in .*step-\d{6}\ncontinue with: ", errors)
    assert printed == ""
    assert "Traceback" not in errors
    assert advice(errors) == f"postgrad resume {out}"
    taken = len(steps(out))
    assert 3 <= taken < 100
    resumed(advice(errors))
    assert steps(out) == [("sft", step) for step in range(1, 101)] + [("rl", 1), ("rl", 2)]
