"""The recipe of Gazal-R1, shrunk to seconds and run whole; its presets; its own data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from postgrad import config, report
from postgrad.domains import clinic
from postgrad.recipes import gazal_r1
from postgrad.records import Example, Problem, read_jsonl
from postgrad.run import Run, read_lines

SMALL = (
    "hidden_size=32",
    "num_hidden_layers=2",
    "num_attention_heads=2",
    "num_key_value_heads=1",
    "intermediate_size=64",
)
TINY = (
    *(f"model.scratch.{word}" for word in SMALL),
    "model.adapter.r=4",
    "model.adapter.lora_alpha=4",
    *(f"data.clinic.{word}" for word in ("train=60", "validation=10", "test=20", "levels=[1]", "school=60", "school_worlds=2")),
    *(f"school.{word}" for word in ("max_steps=12", "warmup_steps=1", "max_length=256", "eval_steps=12", "save_steps=12")),
    *(f"sft.{word}" for word in ("max_steps=16", "learning_rate=5e-4", "warmup_steps=8", "max_length=256", "eval_steps=8", "save_steps=8")),
    *(
        f"rl.{word}"
        for word in (
            "max_steps=4", "warmup_steps=1", "eval_steps=2", "save_steps=2", "prompts_per_step=2", "num_generations=4",
            "per_device_train_batch_size=4", "max_completion_length=16", "max_resample=0", "mask_truncated_completions=false", "rewards.repetition_ngram=1",
        )
    ),
    "eval.max_tokens=16",
    "eval.bootstrap=200",
)  # fmt: skip


def settings(*overrides: str, preset: str = "laptop") -> gazal_r1.Config:
    return config.load(gazal_r1.Config, [config.preset("gazal_r1", preset), *map(config.Override, overrides)]).settings


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    asked = settings(*TINY, *overrides)
    made = Run.create(folder, recipe="gazal_r1", preset="laptop", config=asked, command=["postgrad", "run"])
    return gazal_r1.main(asked, made)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gazal") / "run"
    run(folder)
    return folder


def rows(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if row["stage"] == stage]


# ---- The run --------------------------------------------------------------------------------------------------------


def test_the_stages_in_the_papers_order(finished: Path) -> None:
    stages = Run.open(finished).stages()
    assert [(name, stage["status"]) for name, stage in stages.items()] == [
        (name, "done") for name in ("base", "data", "school", "sft", "rl", "eval")
    ]
    assert [len(rows(finished, stage)) for stage in ("school", "sft", "rl")] == [12, 16, 4]
    assert stages["data"]["result"] == {
        "sft": 60, "rl": 60, "rl_unchecked_gold": 0, "validation": 10, "validation_unchecked_gold": 0, "test": 20,
        "test_unchecked_gold": 0, "school": 60,
    }  # fmt: skip


def test_stage_two_starts_from_the_merged_adapter(finished: Path) -> None:
    """Whole weights between the stages, changed by the adapter alone: no norm and no embedding moves."""
    from safetensors.torch import load_file

    stages = Run.open(finished).stages()
    school, sft, rl = (
        load_file(finished / stages[name]["result"] / "model.safetensors") for name in ("school", "sft", "rl")
    )
    assert school.keys() == sft.keys() == rl.keys()
    assert not any("lora" in name for name in sft)
    for before, after in ((school, sft), (sft, rl)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved
        assert all("proj" in name for name in moved)
    assert (finished / "checkpoints" / "sft" / "step-000016" / "adapter_model.safetensors").is_file()


def test_schooling_and_sft_learn(finished: Path) -> None:
    """The loss on this world's worked cases, after each stage."""
    from postgrad.train import fit, source
    from postgrad.train import model as models

    stages, asked = Run.open(finished).stages(), settings(*TINY)
    examples = list(read_jsonl(Example, finished / "data" / "sft.jsonl"))
    found = []
    for stage in ("base", "school", "sft"):
        where = str(finished / stages[stage]["result"])
        model = models.load(where, dtype=torch.float32, device=torch.device("cpu"))
        documents, _ = source.supervised(models.load_tokenizer(where), examples, asked.sft)
        found.append(fit.mean_loss(model, documents))
    base, schooled, taught = found
    assert base == pytest.approx(6.0, abs=0.1), "ln 408, the tokenizer's size: knowing nothing"
    assert schooled < base - 0.3
    assert taught < schooled - 0.005


def test_other_worlds_teach_no_case_of_this_one(finished: Path) -> None:
    known = {problem.id: problem.gold for problem in read_jsonl(Problem, finished / "data" / "test.jsonl")}
    lessons = list(read_jsonl(Example, finished / "data" / "school.jsonl"))
    assert not {example.id for example in lessons} & known.keys()
    seats = {clinic.world(seed).seats["K00"] for seed in range(20)}
    assert len(seats) > 1, "worlds differ in their facts"


def test_the_summary_tells_of_each_slice_after_each_stage(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["models"]) == ["base", "sft", "rl"]
    for name, slices in summary["slices"].items():
        assert set(slices) == {"multi_step", "recall", *clinic.FAMILIES}, name
        assert (slices["multi_step"]["n"], slices["recall"]["n"]) == (16, 4)
        whole = summary["models"][name]["accuracy"]
        together = sum(slices[part]["value"] * slices[part]["n"] for part in ("multi_step", "recall"))
        assert together == pytest.approx(whole["value"] * whole["n"])
        traces = read_lines(finished / "evals" / f"{name}.jsonl")
        framed = sum(bool(re.fullmatch(r"<think>(?s:.{6,})</think>\s*\\boxed\{.\}", row["text"])) for row in traces)
        assert summary["form"][name]["value"] == pytest.approx(framed / len(traces), abs=0.2)
    names = {row["name"] for row in summary["comparisons"]}
    assert {
        f"accuracy, {part}: {pair}" for part in ("multi_step", "recall") for pair in ("base -> sft", "sft -> rl")
    } < names
    assert all(len(row["interval"]) == 2 for row in summary["comparisons"])


def test_claims_are_judged_by_the_thresholds_of_the_config(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    goal = settings().eval
    gains = {row["name"]: row["value"] for row in summary["comparisons"]}
    expected = {
        "form": (summary["form"]["rl"]["value"], goal.min_format),
        "sft_gain": (gains["accuracy, multi_step: base -> sft"], goal.min_sft_gain),
        "rl_gain": (gains["accuracy, multi_step: sft -> rl"], goal.min_rl_gain),
    }
    assert {claim["id"]: (claim["measured"], claim["threshold"]) for claim in summary["claims"]} == expected
    assert all(claim["met"] == (claim["measured"] >= claim["threshold"]) for claim in summary["claims"])
    assert (goal.min_format, goal.min_rl_gain, goal.min_sft_gain) == (0.99, 0.02, 0.05)


def test_sft_alone_is_a_run(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "rl=null", "school=null", "sft.max_steps=2", "sft.warmup_steps=0")
    assert (list(summary["models"]), list(summary["form"])) == (["base", "sft"], ["base", "sft"])
    claims = {claim["id"]: claim["statement"] for claim in summary["claims"]}
    assert list(claims) == ["form", "sft_gain"]
    assert claims["form"].startswith("share of sft's traces")
    assert list(Run.open(tmp_path / "run").stages()) == ["base", "data", "sft", "eval"]
    assert report.write(tmp_path / "run").is_file()


def test_the_report_is_written(finished: Path) -> None:
    page = report.write(finished).read_text()
    assert "multi_step" in page
    assert "rl_gain" in page


def test_the_control_answers_without_reasoning(tmp_path: Path) -> None:
    asked = settings(*TINY, "data.clinic.traces=answer_only", "school=null")
    made = Run.create(tmp_path / "run", recipe="gazal_r1", preset="laptop", config=asked, command=["postgrad"])
    gazal_r1.prepare(asked, made)
    examples = list(read_jsonl(Example, made.folder / "data" / "sft.jsonl"))
    assert len(examples) == 60
    assert all(re.fullmatch(r"\\boxed\{[ABCD]\}", example.response) for example in examples)
    assert not (made.folder / "data" / "school.jsonl").exists()


def test_files_of_ones_own(tmp_path: Path) -> None:
    """Clinical prose for SFT, a tenth of the questions for RL, each test file a slice, overlap left out and counted."""
    prose = [{"case": f"Case {at} of pain.", "reasoning": "1. Think.", "answer": "Rest."} for at in range(12)]
    asked = [
        {"id": f"u{at}", "question": f"Number {at}?", "options": ["yes", "no"], "answer": "no" if at % 2 else "yes"}
        for at in range(100)
    ]
    for name, some in (
        ("prose", prose),
        ("rl", asked),
        ("one", asked[:5]),
        ("two", [{**asked[5], "question": "Else?"}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    words = [
        "data.clinic=null", "school=null", f"data.files.sft=[{tmp_path / 'prose.jsonl'}]", f"data.files.rl={tmp_path / 'rl.jsonl'}",
        f"data.files.test=[{tmp_path / 'one.jsonl'}, {tmp_path / 'two.jsonl'}]", "data.files.rl_share=0.5",
        "data.files.validation_fraction=0.1", "data.system_prompt=Think.", "rl.max_prompt_length=256",
    ]  # fmt: skip
    tiny = [word for word in TINY if not word.startswith(("data.", "school."))]
    wanted = settings(*tiny, *words)
    made = Run.create(tmp_path / "run", recipe="gazal_r1", preset="laptop", config=wanted, command=["postgrad"])
    counts = gazal_r1.prepare(wanted, made)
    left_out = counts["overlap_rl_test"]["exact"]
    assert counts["sft"] == 12
    assert (counts["validation"], counts["rl"], counts["test"]) == (5, 45 - left_out, 6)
    test = list(read_jsonl(Problem, made.folder / "data" / "test.jsonl"))
    assert [problem.labels["slice"] for problem in test] == ["one"] * 5 + ["two"]
    assert test[0].id == "one/u0"
    assert all(problem.prompt[0].content == "Think." for problem in test)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.clinic=null"], "give exactly one of data.clinic (generated) and data.files (your own)"),
        (
            ["data.clinic=null", "data.files={sft: [a], rl: b, test: [c]}"],
            "school trains on other worlds of data.clinic",
        ),
    ],
)
def test_settings_that_do_not_go_together(overrides: list[str], words: str) -> None:
    with pytest.raises(config.ConfigError, match=re.escape(words)):
        settings(*overrides)


# ---- Presets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["laptop", "gpu"])
def test_the_longest_cases_fit(preset: str) -> None:
    asked = settings(preset=preset)
    assert asked.data.clinic is not None
    assert asked.model.scratch is not None
    tokenizer = clinic.tokenizer()
    made = clinic.problems(clinic.world(0), "train", 500, seed=0, levels=asked.data.clinic.levels)
    for problem in made:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt[0].content}], tokenize=False, add_generation_prompt=True
        )
        assert len(tokenizer(prompt)["input_ids"]) <= asked.rl.max_prompt_length
        assert len(tokenizer(problem.reference)["input_ids"]) < asked.rl.max_completion_length
    assert asked.rl.rewards.max_length == asked.rl.max_completion_length == asked.eval.max_tokens
    assert asked.rl.max_prompt_length + asked.eval.max_tokens <= asked.model.scratch.max_position_embeddings


def test_every_preset_adapts_by_dora_at_rank_stable_scale_with_exadam_and_warm_up() -> None:
    for preset in config.presets("gazal_r1"):
        asked = settings(preset=preset)
        assert asked.model.adapter is not None
        assert (asked.model.adapter.use_dora, asked.model.adapter.use_rslora) == (True, True), preset
        assert asked.rl is not None
        # On the laptop EXAdam makes GRPO worse: LOG.md.
        assert (asked.sft.optim, asked.rl.optim) == ("exadam", "adamw" if preset == "laptop" else "exadam"), preset
        assert min(asked.sft.warmup_steps, asked.rl.warmup_steps) >= 10
        assert (asked.rl.beta, asked.rl.epsilon_high, asked.rl.loss_type) == (0.0, 0.28, "dapo"), preset


# ---- paper ----------------------------------------------------------------------------------------------------------


def test_the_paper_preset_says_what_is_known_of_the_paper() -> None:
    asked = settings(preset="paper")
    files = asked.data.files
    assert files is not None
    assert asked.model.path == "Qwen/Qwen3-32B"
    assert asked.school is None
    assert (len(files.sft), files.rl_share) == (2, 0.1)
    weights = {
        name: getattr(asked.rl.rewards, name) for name in ("accuracy", "format_thought", "repetition", "step_markers")
    }
    assert weights == {"accuracy": 1.0, "format_thought": 0.2, "repetition": 1.0, "step_markers": 0.0}
    # About one pass over 107,033 + 32,682 rows.
    assert asked.sft.max_steps * asked.sft.rows_per_step * asked.sft.max_length >= (107_033 + 32_682) * 500


def test_the_paper_presets_second_stage_is_the_named_algorithm() -> None:
    """`--algorithm gazal` over it changes nothing."""
    layers = [config.preset("gazal_r1", "paper"), config.algorithm("gazal")]
    assert config.load(gazal_r1.Config, layers).settings == settings(preset="paper")


def test_every_value_of_the_paper_preset_says_where_it_comes_from() -> None:
    """[P] the abstract, [C] the cards, [A] an article about it, [ours]; behind the value, or in the comment right above it."""
    marks = re.compile(r"\[(A|P|C|ours)\]")
    above, unmarked = "", []
    for line in (config.PRESETS / "gazal_r1" / "paper.yaml").read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            above += line
            continue
        if not line.endswith(":") and not marks.search(line) and not marks.search(above):
            unmarked.append(line)
        above = ""
    assert not unmarked


def test_the_paper_preset_leaves_nothing_to_our_defaults() -> None:
    loaded = config.load(gazal_r1.Config, [config.preset("gazal_r1", "paper")])
    unused = {"data.clinic", "model.scratch", "model.device", "report_to"}
    unused |= {name for name in loaded.places if name.startswith("rl.vllm")}
    # Their weights are 0.
    unused |= {f"rl.rewards.{name}" for name in ("overlong_buffer", "gate_length", "length_unit", "longer")}
    assert {key for key, place in loaded.places.items() if place == "default"} - unused == set()
