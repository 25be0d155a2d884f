"""The command line: what it prints, how it ends, what it exports; with a toy recipe, without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import postgrad.recipes
from postgrad import cli, config, doctor, export
from postgrad.recipes.math_two_stage import Config as MathConfig
from postgrad.records import Example, Message, Problem, write_jsonl

ROOT = Path(__file__).parent.parent

TOY = '''"""A toy that ends as it is told.

Not part of the package.
"""
import os
import signal
import time

from pydantic import PositiveInt

from postgrad.config import Settings
from postgrad.run import Failed, Preempted


class Config(Settings):
    seed: int = 0
    size: PositiveInt
    end: str = "well"


def main(config, run):
    if config.end == "wait":
        print("waiting", flush=True)
        while not run.stop_requested:
            time.sleep(0.01)
    if config.end.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, config.end))
    if run.stop_requested:
        raise Preempted(f"stopped by {run.stop_requested} after step 3 of 9; saved")
    if config.end == "keyboard":
        raise KeyboardInterrupt
    if config.end == "data":
        raise ValueError("data.jsonl:3: no answer")
    if config.end == "failed":
        raise Failed("the loss is not finite at step 3: lower sft.learning_rate")
    if config.end == "disk":
        raise OSError(28, "No space left on device", "metrics.jsonl")
    if config.end == "bug":
        raise ZeroDivisionError("division by zero")
    claim = {"id": "C1", "statement": "it works", "measured": 0.95, "interval": [0.9, 1.0], "op": ">=", "threshold": 0.9, "n": 40}
    return {"claims": [{**claim, "met": True}, {**claim, "id": "C2", "op": "<=", "met": False}]}


def plan(config):
    return {"steps": config.size, "memory": {"weights": "1 MB", "activations": "2 MB"}}
'''

Invoke = Callable[..., Result]


@pytest.fixture
def toys(tmp_path: Path) -> tuple[Path, Path]:
    """Folders with a recipe `toy` and its preset."""
    recipes, presets = tmp_path / "recipes", tmp_path / "presets"
    recipes.mkdir()
    (presets / "toy").mkdir(parents=True)
    (recipes / "toy.py").write_text(TOY)
    (presets / "toy" / "laptop.yaml").write_text("size: 3\n")
    return recipes, presets


@pytest.fixture
def invoke(toys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    recipes, presets = toys
    monkeypatch.setattr(postgrad.recipes, "__path__", [*postgrad.recipes.__path__, str(recipes)])
    monkeypatch.setattr(config.layers, "PRESETS", presets)
    monkeypatch.setattr("postgrad.report.write", lambda folder: folder / "report.html")
    monkeypatch.chdir(tmp_path)
    yield lambda *arguments: CliRunner().invoke(cli.app, [str(part) for part in arguments], prog_name="postgrad")
    sys.modules.pop("postgrad.recipes.toy", None)


# Help


def test_help_of_everything_imports_nothing_heavy() -> None:
    code = """
import sys
from typer.testing import CliRunner
from postgrad import cli
commands = ["run", "resume", "eval", "report", "plan", "doctor", "schema", "export", "recipes", "data"]
for words in [[], *([c] for c in commands), ["data", "check"], ["data", "preview"]]:
    found = CliRunner().invoke(cli.app, [*words, "--help"])
    assert found.exit_code == 0 and "Usage" in found.output, (words, found.output)
assert CliRunner().invoke(cli.app, ["recipes"]).exit_code == 0
print({"torch", "transformers", "numpy", "pyarrow", "trl"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "postgrad", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"postgrad {postgrad.__version__}\n"


def test_recipes_are_listed_with_their_first_line(invoke: Invoke) -> None:
    found = invoke("recipes")
    assert found.exit_code == 0
    assert "toy (laptop)\n  A toy that ends as it is told.\n" in found.stdout
    assert "math_two_stage" in found.stdout
    assert "postgrad.recipes.toy" not in sys.modules, "listing imports no recipe"


# Config


def test_print_config_says_where_values_come_from(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("end: data\n")
    monkeypatch.setenv("POSTGRAD__SEED", "7")
    plain = invoke("run", "toy", "--config", "mine.yaml", "size=5", "--print-config")
    assert (plain.exit_code, plain.stdout) == (0, "seed: 7\nsize: 5\nend: data\n")
    placed = invoke("run", "toy", "--config", "mine.yaml", "--print-config", "--sources")
    assert placed.stdout == (
        "seed: 7  # environment POSTGRAD__SEED\nsize: 3  # toy/laptop.yaml:1\nend: data  # mine.yaml:1\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "toy", "siez=3"], "unknown key 'siez'; did you mean 'size'?"),
        (["run", "toy", "size=x"], "'size': got 'x' (text), wanted a whole number"),
        (["run", "toy", "--preset", "latpop"], "recipe 'toy' has no preset 'latpop': wanted 'laptop'"),
        (
            ["run", "toyy"],
            "no recipe 'toyy'; known recipes: cuda_l1, gazal_r1, math_two_stage, toy; did you mean 'toy'?",
        ),
        (["run", "toy", "--config", "none.yaml"], "none.yaml: cannot read the file"),
        (["run", "toy", "--out", "full"], "full already exists and is not empty"),
        (["plan", "toy", "size=0"], "'size': got 0, wanted more than 0"),
        (["resume", "full"], "full is not a run's folder"),
        (["report", "full"], "full is not a run's folder"),
        (["report"], "give exactly one of PATH and --results DIR"),
        (["eval", "some/model"], "--data is missing"),
        (["run", "toy", "--no-such-option"], "No such option"),
        (["export", "full", "--to", "onnx", "out"], "onnx"),
    ],
)
def test_usage_errors_exit_2_before_any_work(invoke: Invoke, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    found = invoke(*arguments)
    assert found.exit_code == 2, found.output
    assert words in re.sub(r"[\s│]+", " ", found.stderr)
    assert found.stdout == ""
    assert "Traceback" not in found.output
    assert not (tmp_path / "runs").exists()


# How runs end


def test_a_run_that_is_done(invoke: Invoke, tmp_path: Path) -> None:
    found = invoke("run", "toy", "--out", "one", "size=4")
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [
        "met     C1: it works: 0.95 [0.9, 1], n = 40 (claimed >= 0.9)",
        "NOT MET C2: it works: 0.95 [0.9, 1], n = 40 (claimed <= 0.9)",
        "report: one/report.html",
    ]
    assert found.stderr == "run folder: one\n"
    assert (tmp_path / "one" / "config.yaml").read_text() == "seed: 0\nsize: 4\nend: well\n"
    assert invoke("resume", "one").exit_code == 0


def test_a_run_without_out_gets_a_folder_of_its_own(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("run", "toy").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"toy-laptop-\d{8}-\d{6}", folder.name)


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("data", 1, "error: data.jsonl:3: no answer\n"),
        ("failed", 1, "error: the loss is not finite at step 3: lower sft.learning_rate\n"),
        ("disk", 1, "error: [Errno 28] No space left on device: 'metrics.jsonl'\n"),
        ("bug", 1, "error: ZeroDivisionError: division by zero\nprobably a fault in postgrad: --debug shows where"),
        ("keyboard", 130, "stopped by Ctrl-C\ncontinue with: postgrad resume 'my run'\n"),
        ("SIGINT", 130, "stopped by Ctrl-C after step 3 of 9; saved\ncontinue with: postgrad resume 'my run'\n"),
        ("SIGTERM", 75, "stopped by SIGTERM after step 3 of 9; saved\ncontinue with: postgrad resume 'my run'\n"),
        ("SIGUSR1", 75, "stopped by SIGUSR1 after step 3 of 9; saved\ncontinue with: postgrad resume 'my run'\n"),
    ],
)
def test_exit_codes(invoke: Invoke, end: str, code: int, words: str) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    found = invoke("run", "toy", "--out", "my run", f"end={end}")
    assert found.exit_code == code, found.output
    assert words in found.stderr
    assert "Traceback" not in found.output
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


def test_debug_shows_the_traceback(invoke: Invoke) -> None:
    found = invoke("run", "toy", "--out", "one", "end=bug", "--debug")
    assert found.exit_code == 1
    assert "Traceback (most recent call last)" in found.stderr
    assert "ZeroDivisionError" in found.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_the_process(toys: tuple[Path, Path], tmp_path: Path, number: int, code: int) -> None:
    boot = (
        "import sys; from pathlib import Path; import postgrad.recipes, postgrad.config, postgrad.cli\n"
        "postgrad.recipes.__path__.append(sys.argv.pop(1)); postgrad.config.layers.PRESETS = Path(sys.argv.pop(1))\n"
        "postgrad.cli.main()"
    )
    command = [sys.executable, "-c", boot, *map(str, toys), "run", "toy", "--out", str(tmp_path / "one"), "end=wait"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert "saving after this step" in errors
    assert errors.endswith(f"continue with: postgrad resume {tmp_path / 'one'}\n")
    assert "Traceback" not in errors


def test_a_second_interrupt_stops_at_once() -> None:
    run = SimpleNamespace(stop_requested=None)

    def twice() -> None:
        with cli._stoppable(run):  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGINT)
            assert run.stop_requested == "Ctrl-C"
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()


# Other commands


def test_plan_prints_mappings_and_rows(invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    found = invoke("plan", "toy", "size=4000")
    assert found.exit_code == 0, found.output
    assert [" ".join(line.split()) for line in found.stdout.splitlines()] == [
        "steps 4,000",
        "memory weights 1 MB, activations 2 MB",
    ]
    cli._table([{"stage": "sft", "steps": 10}, {"stage": "rl", "steps": 5}])
    cli._table([("sft", 10), ("rl", 5)])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["stage", "steps"],
        ["sft", "10"],
        ["rl", "5"],
        ["sft", "10"],
        ["rl", "5"],
    ]


def test_schema_is_json(invoke: Invoke) -> None:
    found = invoke("schema", "toy")
    assert json.loads(found.stdout)["properties"]["size"]["exclusiveMinimum"] == 0


def test_eval_takes_a_model_or_a_run(invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path, dict[str, Any]]] = []

    def measure(model: str, data: Path, **settings: Any) -> dict[str, Any]:
        asked.append((model, data, settings))
        return {"accuracy": 0.5}

    monkeypatch.setitem(sys.modules, "postgrad.evaluate", SimpleNamespace(measure=measure))
    found = invoke("eval", "some/model", "--data", "x.jsonl", "--samples", 4, "--limit", 7)
    assert json.loads(found.stdout) == {"accuracy": 0.5}
    defaults = {"samples": 1, "max_tokens": 1024, "temperature": 1.0, "limit": None, "seed": 0, "out": None}
    defaults |= {"system": None, "turns": 1, "name": None, "key_variable": None}
    assert asked.pop() == ("some/model", Path("x.jsonl"), {**defaults, "samples": 4, "limit": 7})
    assert invoke("eval", run).exit_code == 0
    assert asked.pop() == (str(run / "checkpoints/rl/step-000002"), run / "data/test.jsonl", defaults)


def test_report_of_a_run_and_of_results(invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("report", run).stdout == f"{run}/report.html\n"
    monkeypatch.setattr("postgrad.report.results_table", lambda folder: f"| {folder} |")
    assert invoke("report", "--results", "docs/results").stdout == "| docs/results |\n"


def test_data_check_says_what_is_wrong_and_where(invoke: Invoke, tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": [{"role": "assistant", "content": "2"}]}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n{broken\n")
    good = invoke("data", "check", "good.jsonl")
    assert good.exit_code == 0, good.output
    assert "1 read, 0 faults" in good.stdout
    bad = invoke("data", "check", "good.jsonl", "bad.jsonl")
    assert bad.exit_code == 1
    assert "bad.jsonl" in bad.stdout


def test_data_preview_marks_what_is_trained(invoke: Invoke, tmp_path: Path) -> None:
    from postgrad.domains import arithmetic

    arithmetic.tokenizer().save_pretrained(tmp_path / "tokenizer")
    row = {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": [{"role": "assistant", "content": "two"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    found = invoke("data", "preview", "rows.jsonl", "--model", "tokenizer")
    assert found.exit_code == 0, found.output
    assert "tokens are trained" in found.stdout
    (trained,) = re.findall(r"\[\[(.*?)\]\]", found.stdout, re.DOTALL)
    assert "two" in trained
    assert "1 + 1?" not in trained
    missing = invoke("data", "preview", "rows.jsonl", "--model", "tokenizer", "--row", 5)
    assert (missing.exit_code, "has no row 5" in missing.stderr) == (2, True)


# Doctor


def test_doctor_passes_here_and_names_every_core_package(invoke: Invoke) -> None:
    found = invoke("doctor")
    assert found.exit_code == 0, found.output
    assert "postgrad can run here" in found.stdout
    for name in (*doctor.CORE, "cpu", "gpu", "memory", "disk", "chromium"):
        assert re.search(rf"^(  ok|warn)  {re.escape(name)} ", found.stdout, re.MULTILINE), name


def test_doctor_agrees_with_the_declared_dependencies() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = [re.findall(r"^([\w-]+)>=([\d.]+)", line) for line in declared["dependencies"]]
    assert [list(doctor.CORE.items())] == [[pair for (pair,) in least]]
    for extra, lines in declared["optional-dependencies"].items():
        names = [re.match(r"[\w-]+", line)[0] for line in lines if not line.startswith("types-")]  # type: ignore[index]
        assert doctor.EXTRAS[extra] == tuple(names)


def test_doctor_on_what_is_missing_or_old() -> None:
    assert doctor.package("torch", "2.10.1+cu128", "2.11").state == "error"
    assert "older than 2.11" in doctor.package("torch", "2.10.1+cu128", "2.11").found
    assert doctor.package("torch", None, "2.11").advice == "pip install 'torch>=2.11'"
    assert doctor.package("numpy", "2.0.0rc1", "2").state == "ok"
    assert [doctor.python(version).state for version in ((3, 10), (3, 11), (3, 13), (3, 14))] == [
        "error",
        "ok",
        "ok",
        "warning",
    ]


def test_doctor_fails_for_errors_and_not_for_warnings(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [doctor.Finding("torch", "error", "not installed", "pip install torch")]
    monkeypatch.setattr(doctor, "examine", lambda: broken)
    found = invoke("doctor")
    assert found.exit_code == 1
    assert "-> pip install torch" in found.stdout
    broken[:] = [doctor.Finding("chromium", "warning", "not found")]
    assert invoke("doctor").exit_code == 0


def test_doctor_warns_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    assert (doctor.disk(tmp_path).state, "save_total_limit" in doctor.disk(tmp_path).advice) == ("warning", True)


# Export

SETTINGS = config.load(
    MathConfig,
    [
        config.Text(
            """
model: {path: some/model}
data: {arithmetic: {train: 100}}
sft: {max_steps: 10, learning_rate: 1e-4, max_length: 128, min_lr_ratio: 0.1, gradient_accumulation_steps: 2}
rl:
  max_steps: 10
  learning_rate: 1e-5
  prompts_per_step: 4
  num_generations: 8
  num_iterations: 2
  per_device_train_batch_size: 16
  max_completion_length: 64
  epsilon_high: 0.28
  beta: 0.04
  min_p: 0.05
  max_resample: 2
  rewards: {accuracy: 1.0, cosine_length: 0.5, max_length: 64}
eval: {max_tokens: 64}
""",
            "run",
        )
    ],
).settings


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"step-{step:06d}"
    (made / "state").mkdir(parents=True)
    files = {"config.json": "{}", "model.safetensors": f"weights {step}", "state/optimizer.pt": "moments"}
    for name, text in files.items():
        (made / name).write_text(text)
    hashes = {
        name: {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()} for name, text in files.items()
    }
    (made / "COMMIT.json").write_text(json.dumps({"step": step, "files": hashes}))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of the mathematics recipe, as far as exports look at one."""
    folder = tmp_path / "finished"
    (folder / "data").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"recipe": "math_two_stage", "preset": "laptop"}))
    (folder / "config.yaml").write_text(config.dump_yaml(SETTINGS))
    for stage, best in (("sft", None), ("rl", "step-000002")):
        for step in (2, 3):
            checkpoint(folder / "checkpoints" / stage, step)
        (folder / "checkpoints" / stage / "latest").write_text("step-000003\n")
        if best:
            (folder / "checkpoints" / stage / "best").write_text(f"{best}\n")
    prompt = (Message("system", "Think."), Message("user", "1 + 1?"))
    write_jsonl(folder / "data" / "sft.jsonl", [Example(prompt, "so 2", 2.0, "a"), Example(prompt, "2", 1.0, "b")])
    for name in ("rl", "validation", "test"):
        write_jsonl(
            folder / "data" / f"{name}.jsonl", [Problem(f"{name}-0", prompt, "2"), Problem(f"{name}-1", prompt, None)]
        )
    return folder


def test_export_to_hugging_face_takes_the_named_checkpoint_without_state(
    invoke: Invoke, run: Path, tmp_path: Path
) -> None:
    assert invoke("export", run, "--to", "hf", "best").exit_code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "best").iterdir()} == {
        "config.json": "{}",
        "model.safetensors": "weights 2",
    }
    assert invoke("export", run, "--to", "hf", "--stage", "sft", "sft").exit_code == 0
    assert (tmp_path / "sft" / "model.safetensors").read_text() == "weights 3"


def test_export_refuses_damage_and_never_overwrites(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    weights = run / "checkpoints" / "rl" / "step-000002" / "model.safetensors"
    weights.write_text("weights 9")
    found = invoke("export", run, "--to", "hf", "out")
    assert (found.exit_code, "is damaged" in found.stderr) == (1, True)
    assert not (tmp_path / "out").exists()
    weights.unlink()
    with pytest.raises(ValueError, match="is missing"):
        export.to_hugging_face(run, "best", tmp_path / "out")
    with pytest.raises(ValueError, match="not empty"):
        export.to_hugging_face(run, "sft", run)
    with pytest.raises(ValueError, match="no checkpoint yet"):
        export.checkpoint(tmp_path)


def test_export_to_trl_is_what_trl_accepts(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    assert invoke("export", run, "--to", "trl", "out").exit_code == 0
    out = tmp_path / "out"
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}]
    first = json.loads((out / "sft.jsonl").read_text().splitlines()[0])
    completion = [{"role": "assistant", "content": "so 2"}]
    assert first == {"prompt": prompt, "completion": completion, "weight": 2.0, "id": "a"}
    (only,) = (out / "rl.jsonl").read_text().splitlines()
    assert json.loads(only) == {"prompt": prompt, "gold": "2", "id": "rl-0"}
    assert "does not use them" in (out / "sft.yaml").read_text()
    assert "cosine_length" in (out / "grpo.yaml").read_text()
    code = """
import sys, yaml
from trl import GRPOConfig, SFTConfig
sft = SFTConfig(**yaml.safe_load(open("sft.yaml")))
grpo = GRPOConfig(**yaml.safe_load(open("grpo.yaml")))
print(sft.learning_rate, sft.lr_scheduler_kwargs, sft.packing, grpo.generation_batch_size, grpo.epsilon_high, grpo.min_p)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False)
    assert done.stdout == "0.0001 {'min_lr_rate': 0.1} True 32 0.28 0.05\n", done.stderr


def test_export_to_verl_rows_and_settings(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert invoke("export", run, "--to", "verl", "out").exit_code == 0
    (row,) = parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert row == {
        "data_source": "postgrad",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "train", "index": 0, "id": "rl-0"},
    }
    assert parquet.read_table(tmp_path / "out" / "sft.parquet").num_rows == 2
    text = (tmp_path / "out" / "grpo.yaml").read_text()
    settings = yaml.safe_load(text)
    actor = settings["actor_rollout_ref"]["actor"]
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"], actor["kl_loss_coef"]) == (0.2, 0.28, 0.04)
    assert settings["trainer"]["total_training_steps"] == 5, "ten optimizer steps, two on each rollout"
    assert "min_p=0.05" in text
