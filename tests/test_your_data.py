"""Your data and your model: a local Hugging Face folder, rows in the forms of other tools, and the public command line.

The rows are GSM8K's own: a sample of it, or all of its train split where POSTGRAD_DATA names a folder with
gsm8k/train.jsonl.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from postgrad import cli
from postgrad.records import Example, Problem, Status, read_jsonl
from postgrad.run import Run, read_lines
from tests import small_qwen

SAMPLE = Path(__file__).parent / "data" / "gsm8k_data"
WHOLE = Path(os.environ.get("POSTGRAD_DATA", "")) / "gsm8k" / "train.jsonl"
TRAIN = WHOLE if "POSTGRAD_DATA" in os.environ else SAMPLE / "train.jsonl"
TEST = SAMPLE / "test.jsonl"

# A few steps of each stage on whatever model.path and data.files name.
SMALL = (
    "model.scratch=null",
    "data.arithmetic=null",
    "sft.max_steps=4",
    "sft.warmup_steps=1",
    "sft.eval_steps=2",
    "sft.save_steps=2",
    "rl.max_steps=3",
    "rl.warmup_steps=1",
    "rl.eval_steps=3",
    "rl.save_steps=2",
    "rl.prompts_per_step=2",
    "rl.num_generations=4",
    "rl.per_device_train_batch_size=4",
    "rl.max_prompt_length=600",
    "rl.max_completion_length=24",
    "rl.rewards.max_length=24",
    "eval.samples=2",
    "eval.max_tokens=24",
    "eval.bootstrap=100",
)


def postgrad(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], prog_name="postgrad")


def done(*words: object) -> str:
    """What a command that ends well prints."""
    found = postgrad(*words)
    assert found.exit_code == 0, found.output
    return found.stdout


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]  # of text, U+2028 would end a line too


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    texts = (f"{row['question']}\n{row['answer']}" for row in rows_of(TRAIN))
    return small_qwen.save(tmp_path_factory.mktemp("models") / "small", texts)


@pytest.fixture(scope="module")
def asked(base: Path) -> list[str]:
    return [
        *SMALL,
        f"model.path={base}",
        f"data.files.sft={TRAIN}",
        f"data.files.rl={TRAIN}",
        f"data.files.test={TEST}",
    ]


@pytest.fixture(scope="module")
def run(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "gsm8k"
    told = done("run", "math_two_stage", "--preset", "laptop", "--out", out, *asked)
    assert told.splitlines()[-1] == f"report: {out / 'report.html'}"
    return out


# GSM8K, as it is


def test_every_row_of_gsm8k_is_used_or_held_out(run: Path) -> None:
    total = len(rows_of(TRAIN))
    counts = Run.open(run).stages()["data"]["result"]
    held_out = -(-total * 5 // 100)
    assert (counts["validation"], counts["test"], counts["test_unchecked_gold"]) == (held_out, 20, 0)
    assert counts["selection"]["candidates"] == total
    assert counts["selection"]["kept"] == total - counts["selection"]["merged"], (
        "each trace passes the verifier with its own gold"
    )
    leaked = {name: counts[f"overlap_{name}_test"]["ngram"] for name in ("sft", "rl")}
    assert counts["rl"] == total - held_out - leaked["rl"] - counts["rl_unchecked_gold"]
    assert counts["sft"] == counts["selection"]["kept"] - leaked["sft"] - held_out
    for name, kind in (("sft", Example), ("rl", Problem), ("validation", Problem), ("test", Problem)):
        assert len(list(read_jsonl(kind, run / "data" / f"{name}.jsonl"))) == counts[name]


def test_what_trains_never_validates_and_has_its_own_reference(run: Path) -> None:
    def prompts(name: str, kind: Any) -> dict[str, Any]:
        return {record.prompt[-1].content: record for record in read_jsonl(kind, run / "data" / f"{name}.jsonl")}

    sft, rl, validation = prompts("sft", Example), prompts("rl", Problem), prompts("validation", Problem)
    assert not sft.keys() & validation.keys()
    assert not rl.keys() & validation.keys()
    assert sft.keys() == rl.keys()
    answers = {row["question"]: row["answer"].rpartition("####")[2].strip().replace(",", "") for row in rows_of(TRAIN)}
    for question, problem in (rl | validation).items():
        assert problem.gold == answers[question]
        assert problem.reference.endswith(f"\\boxed{{{problem.gold}}}\n</think>")


def test_both_stages_take_their_steps(run: Path) -> None:
    stages = Run.open(run).stages()
    assert [(name, stage["status"]) for name, stage in stages.items()] == [
        (name, "done") for name in ("base", "data", "sft", "rl", "eval")
    ]
    rows = read_lines(run / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [("sft", n) for n in (1, 2, 3, 4)] + [
        ("rl", n) for n in (1, 2, 3)
    ]
    losses = [row["loss"] for row in rows if row["stage"] == "sft"]
    assert 5 < losses[-1] < losses[0] < 7, "ln 512 = 6.24, and falling"
    assert all(row["sampling/sampling_logp_difference/max"] <= 1e-4 for row in rows if row["stage"] == "rl")
    traces = [trace for step in (1, 2, 3) for trace in read_lines(run / "rollouts" / f"rl-{step:06d}.jsonl")]
    assert len(traces) == 3 * 2 * 4
    trained = {problem.id for problem in read_jsonl(Problem, run / "data" / "rl.jsonl")}
    assert {trace["problem_id"] for trace in traces} <= trained


def test_it_is_measured_on_the_real_test_rows(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    golds = {row["question"]: row["answer"].rpartition("#### ")[2].replace(",", "") for row in rows_of(TEST)}
    tests = list(read_jsonl(Problem, run / "data" / "test.jsonl"))
    assert {problem.prompt[-1].content: problem.gold for problem in tests} == golds
    for name in ("base", "sft", "rl"):
        rows = read_lines(run / "evals" / f"{name}.jsonl")
        assert [row["problem_id"] for row in rows] == [problem.id for problem in tests for _ in range(2)]
        assert {row["status"] for row in rows} <= {str(status) for status in Status} - {"unchecked"}
        assert summary["models"][name]["n"] == 40
        assert summary["models"][name]["accuracy"]["value"] == sum(row["status"] == "correct" for row in rows) / 40
    page = (run / "report.html").read_text()
    assert "math_two_stage" in page
    assert "ducks lay 16 eggs per day" in page, "the first test problem stands in the report"


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_checkpoints_load_in_transformers(run: Path, stage: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run / "checkpoints" / stage
    for name in ("latest", "best"):
        step = folder / (folder / name).read_text().strip()
        model: Any = AutoModelForCausalLM.from_pretrained(step)
        tokenizer: Any = AutoTokenizer.from_pretrained(step)
        assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 512
        turns = [{"role": "user", "content": "1 + 1?"}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=3, do_sample=False)
        assert made.shape[1] - ids["input_ids"].shape[1] in (1, 2, 3)


# The other commands, on the same run


def test_eval_measures_a_folder_and_a_run(run: Path, base: Path, tmp_path: Path) -> None:
    options = ("--samples", 2, "--max-tokens", 8, "--limit", 7)
    found = json.loads(done("eval", base, "--data", TEST, *options, "--out", tmp_path / "measured"))
    assert (found["problems"], found["n"], found["model"]) == (7, 14, str(base))
    assert found == json.loads((tmp_path / "measured" / "score.json").read_text())
    traces = read_lines(tmp_path / "measured" / "traces.jsonl")
    assert len(traces) == 14
    assert sum(trace["status"] == "no_answer" for trace in traces) == found["no_answer"]
    assert max(trace["n_tokens"] for trace in traces) <= 8
    again = json.loads(done("eval", base, "--data", TEST, *options))
    assert again == found, "the same seed"
    of_run = json.loads(done("eval", run, *options))
    assert of_run["model"] == str(run / Run.open(run).stages()["rl"]["result"])
    assert (of_run["data"], of_run["n"]) == (str(run / "data" / "test.jsonl"), 14)


def test_eval_overwrites_no_earlier_measurement(base: Path, tmp_path: Path) -> None:
    options = ("--data", TEST, "--max-tokens", 4, "--limit", 2, "--out", tmp_path)
    done("eval", base, *options)
    before = (tmp_path / "traces.jsonl").read_bytes()
    found = postgrad("eval", base, *options, "--seed", 1)
    assert (found.exit_code, "already holds a measurement" in found.stderr) == (1, True)
    assert (tmp_path / "traces.jsonl").read_bytes() == before


def test_data_check_counts_in_the_models_tokens(base: Path) -> None:
    told = " ".join(
        postgrad("data", "check", SAMPLE / "train.jsonl", "--model", base, "--max-length", 9).stdout.split()
    )
    for words in (
        "form gsm8k",
        "rows 40 read, 0 faults",
        "gold answers 40, 0 rows without",
        "too long 40 traces",
        "tokens",
    ):
        assert words in told
    leak = postgrad("data", "check", TEST, "--test", TEST)
    assert leak.exit_code == 1, "a test that is its own training set"
    assert "20 exact" in leak.stdout


def test_data_preview_marks_the_response(base: Path) -> None:
    told = done("data", "preview", SAMPLE / "train.jsonl", "--model", base, "--row", 1)
    context, _, rest = told.partition("[[")
    trained, _, tail = rest.partition("]]")
    assert "Weng earns $12 an hour" in context
    assert "\\boxed{10}" in trained
    assert trained.endswith("<|im_end|>")
    assert tail.strip() == ""


def test_plan_counts_the_folders_own_parameters(base: Path, asked: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    told = " ".join(done("plan", "math_two_stage", *asked).split())
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    assert f"model {model.num_parameters():,} parameters in float32" in told
    assert "sft tokens at most 1,024 a step x 4 steps = 4,096" in told
    assert "rl steps 3 updates on 3 rollouts = 24 completions of at most 24 tokens" in told
    assert list(tmp_path.iterdir()) == []


def test_report_is_written_again(run: Path) -> None:
    (run / "report.html").unlink()
    assert done("report", run).strip() == str(run / "report.html")
    assert (run / "report.html").stat().st_size > 10_000


def test_export_to_hugging_face_gives_the_best_checkpoint(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done("export", run, tmp_path / "hf", "--to", "hf")
    assert not (tmp_path / "hf" / "state").exists()
    best = load_file(run / Run.open(run).stages()["rl"]["result"] / "model.safetensors")
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert all(torch.equal(best[name], value) for name, value in exported.state_dict().items() if name in best)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template == small_qwen.CHATML
    measured = json.loads(done("eval", tmp_path / "hf", "--data", TEST, "--max-tokens", 4, "--limit", 2))
    assert measured["n"] == 2


def test_exported_data_trains_again(run: Path, base: Path, tmp_path: Path) -> None:
    """What goes to TRL and verl is read back by postgrad itself, row for row."""
    done("export", run, tmp_path / "trl", "--to", "trl")
    done("export", run, tmp_path / "verl", "--to", "verl")
    counts = Run.open(run).stages()["data"]["result"]
    for name in ("sft", "rl", "validation"):
        assert len(rows_of(tmp_path / "trl" / f"{name}.jsonl")) == counts[name]
    table = pyarrow.parquet.read_table(tmp_path / "verl" / "train.parquet")
    assert table.num_rows == counts["rl"]
    assert yaml.safe_load((tmp_path / "trl" / "grpo.yaml").read_text())["max_steps"] == 3
    assert yaml.safe_load((tmp_path / "verl" / "grpo.yaml").read_text())["trainer"]["total_training_steps"] == 3
    files = [
        f"data.files.{name}={tmp_path / path}"
        for name, path in (("rl", "verl/train.parquet"), ("test", "verl/test.parquet"))
    ]
    out = tmp_path / "again"
    done(
        "run",
        "math_two_stage",
        "--out",
        out,
        *SMALL,
        f"model.path={base}",
        *files,
        "sft=null",
        "rl.max_steps=2",
        "rl.eval_steps=2",
    )
    again = Run.open(out).stages()["data"]["result"]
    assert (again["rl"] + again["validation"], again["test"], again["sft"]) == (counts["rl"], counts["test"], 0)


# The forms of other tools


def verl_rows(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": row["question"]}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": row["answer"].rpartition("#### ")[2]},
            "extra_info": {"split": split, "index": index, "answer": row["answer"], "question": row["question"]},
        }
        for index, row in enumerate(rows)
    ]


def sharegpt_row(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    gold = row["answer"].rpartition("#### ")[2]
    turns = [
        {"from": "human", "value": row["question"]},
        {"from": "gpt", "value": f"<think>{row['answer'].partition('####')[0].strip()} \\boxed{{{gold}}}</think>"},
    ]
    return {"conversations": turns, "system": "Think step by step.", **more}


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """ShareGPT rows for stage one and verl's parquet for the rest; `more` are columns of the ShareGPT rows."""

    def write(more: dict[str, Any]) -> list[str]:
        rows = rows_of(SAMPLE / "train.jsonl")
        # The same names and another order, as files of different makers have: rows of one id are different problems.
        (tmp_path / "sharegpt").mkdir()
        said = [sharegpt_row(row, **{name: make(row) for name, make in more.items()}) for row in reversed(rows)]
        (tmp_path / "sharegpt" / "train.json").write_text(json.dumps(said))
        for split, source in (("train", rows), ("test", rows_of(TEST))):
            table = pyarrow.Table.from_pylist(verl_rows(source, split))
            pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
        names = {"sft": "sharegpt/train.json", "rl": "train.parquet", "test": "test.parquet"}
        return [f"data.files.{name}={tmp_path / path}" for name, path in names.items()]

    return write


def test_sharegpt_rows_teach_and_verl_rows_reward(
    base: Path, tmp_path: Path, foreign: Callable[..., list[str]]
) -> None:
    files = foreign({"answer": lambda row: row["answer"].rpartition("#### ")[2]})
    out = tmp_path / "run"
    done("run", "math_two_stage", "--out", out, *SMALL, f"model.path={base}", *files, "data.system_prompt=Box it.")
    counts = Run.open(out).stages()["data"]["result"]
    assert {name: counts[name] for name in ("sft", "rl", "validation", "test")} == {
        "sft": 38, "rl": 38, "validation": 2, "test": 20,
    }  # fmt: skip
    for example in read_jsonl(Example, out / "data" / "sft.jsonl"):
        said = [(message.role, message.content) for message in example.prompt]
        assert (said[0], len(said)) == (("system", "Think step by step."), 2), "the rows' own"
    for name in ("rl", "validation"):
        for problem in read_jsonl(Problem, out / "data" / f"{name}.jsonl"):
            assert problem.reference is not None, "the trace of the same problem, wherever it stands"
            assert f"\\boxed{{{problem.gold}}}" in problem.reference
            assert [(message.role, message.content) for message in problem.prompt[:1]] == [("system", "Box it.")]
            assert problem.labels["data_source"] == "openai/gsm8k"
    assert len(read_lines(out / "metrics.jsonl")) == 7
    assert "eval_loss" in read_lines(out / "metrics.jsonl")[1]


def test_rows_that_nothing_can_check_train_only_where_asked(
    base: Path, tmp_path: Path, foreign: Callable[..., list[str]]
) -> None:
    files = foreign({})
    words = ("run", "math_two_stage", *SMALL, f"model.path={base}", *files)
    refused = postgrad(*words, "--out", tmp_path / "refused")
    assert refused.exit_code == 1
    assert "no example is left for stage one after selection (40 candidates, 40 unchecked)" in refused.stderr
    assert "data.selection.keep_unchecked=true" in refused.stderr
    done(*words, "--out", tmp_path / "run", "data.selection.keep_unchecked=true", "rl.max_steps=2", "rl.eval_steps=2")
    counts = Run.open(tmp_path / "run").stages()["data"]["result"]
    assert (counts["selection"]["kept"], counts["selection"]["kept_unchecked"], counts["sft"]) == (0, 40, 38)
