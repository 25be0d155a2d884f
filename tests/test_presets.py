"""The shipped presets: whole, within their limits, and the paper's numbers where a preset says that they are the paper's."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from postgrad import config
from postgrad.domains import arithmetic
from postgrad.recipes import math_two_stage
from postgrad.run import Run
from tests import tiny

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.name for path in config.PRESETS.iterdir() if path.is_dir())


def load(name: str, *overrides: str) -> math_two_stage.Config:
    layers = [config.preset("math_two_stage", name), *map(config.Override, overrides)]
    return config.load(math_two_stage.Config, layers).settings


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_all_three_presets_and_each_is_a_whole_config(recipe: str) -> None:
    module = importlib.import_module(f"postgrad.recipes.{recipe}")
    assert config.presets(recipe) == ["gpu", "laptop", "paper"]
    for name in config.presets(recipe):
        config.load(module.Config, [config.preset(recipe, name)])


@pytest.mark.parametrize(
    "path", sorted(config.PRESETS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_other_readers_of_yaml_read_the_same_numbers(path: Path) -> None:
    """YAML 1.1, which most tools read, takes 1e-5 for text and wants 1.0e-5."""
    assert not re.findall(r"(?m)^[^#\n]*:\s*\d+e[+-]?\d+", path.read_text(encoding="utf-8"))


# ---- laptop and gpu -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_a_generated_field_fits_its_model(name: str) -> None:
    asked = load(name)
    field, shape = asked.data.arithmetic, asked.model.scratch
    assert field is not None
    assert shape is not None
    assert field.max_steps <= arithmetic.LONGEST, "a longer chain has no numbers for its operations"
    assert asked.rl.max_prompt_length + asked.rl.max_completion_length <= shape.max_position_embeddings
    assert asked.rl.max_prompt_length + asked.eval.max_tokens <= shape.max_position_embeddings
    assert asked.rl.rewards.max_length == asked.rl.max_completion_length == asked.eval.max_tokens


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_the_longest_prompts_and_most_traces_fit(name: str) -> None:
    asked = load(name)
    field = asked.data.arithmetic
    assert field is not None
    tokenizer = arithmetic.tokenizer()
    made = arithmetic.problems("train", 400, min_steps=field.max_steps, max_steps=field.max_steps, seed=1)
    lengths = []
    for problem in made:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt[0].content}], tokenize=False, add_generation_prompt=True
        )
        assert len(tokenizer(prompt)["input_ids"]) <= asked.rl.max_prompt_length
        (trace,) = arithmetic.traces(problem, 1, recheck=field.recheck, seed=1)
        lengths.append(len(tokenizer(trace)["input_ids"]))
    cut = sum(length >= asked.rl.max_completion_length for length in lengths) / len(lengths)
    assert cut <= 0.02, f"{cut:.1%} of the teacher's longest traces would be cut"


def test_the_laptop_preset_stays_a_matter_of_minutes() -> None:
    """At some 20,000 trained tokens a second on two cores; sampling and measuring are as dear again."""
    asked = load("laptop")
    assert asked.model.scratch is not None
    assert asked.sft is not None
    shape = asked.model.scratch
    weights = shape.num_hidden_layers * (4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size)
    assert weights <= 2_000_000
    assert asked.model.dtype == "float32", "bfloat16 is three times slower at this width: LOG.md, 2026-11-23"
    assert asked.sft.last_step * asked.sft.rows_per_step * asked.sft.max_length <= 4_000_000
    sampled = asked.rl.last_step * asked.rl.prompts_per_step * asked.rl.num_generations
    assert sampled * asked.rl.max_completion_length <= 3_000_000
    assert asked.data.arithmetic is not None
    assert 1000 <= asked.data.arithmetic.test * asked.eval.samples <= 5000, "enough for an interval, not for a coffee"


# ---- paper ----------------------------------------------------------------------------------------------------------


def test_the_paper_preset_says_what_the_paper_says() -> None:
    asked = load("paper")
    sft, rl, rewards = asked.sft, asked.rl, asked.rl.rewards
    assert sft is not None
    # 8 devices x 1 row x 8 accumulated; 24,000 tokens a row; 10 epochs of 39 steps.
    assert (sft.rows_per_step, sft.max_length, sft.last_step) == (8 * 1 * 8, 24_000, 10 * 39)
    assert (sft.learning_rate, sft.warmup_steps, sft.min_lr_ratio) == (1e-5, 0, 0.0)
    # 8 devices x 2 completions x 8 accumulated = 128 completions = 16 problems x 8.
    completions = rl.prompts_per_step * rl.num_generations
    assert (completions, rl.prompts_per_step, rl.num_generations) == (8 * 2 * 8, 16, 8)
    assert (rl.per_device_train_batch_size, rl.loss_type, rl.num_iterations) == (2, "bnpo", 1)
    assert (rl.last_step, rl.learning_rate, rl.beta, rl.epsilon) == (50, 4e-6, 0.04, 0.2)
    assert (rl.max_prompt_length, rl.max_completion_length) == (512, 16_384)
    assert (rl.temperature, rl.top_p, rl.min_p) == (1.0, 0.9, 0.05)
    weights = {name: getattr(rewards, name) for name in ("format", "cosine_length", "length_penalty")}
    assert weights == {"format": 1.0, "cosine_length": 1.0, "length_penalty": 1.0}
    assert not any((rewards.accuracy, rewards.cosine_similarity, rewards.soft_overlong, rewards.repetition))
    assert (rewards.max_length, rewards.length_unit, rewards.gate_length) == (30_000, "characters", False)
    assert (asked.eval.temperature, asked.eval.top_p, asked.eval.min_p) == (rl.temperature, rl.top_p, rl.min_p)


def test_the_overrides_that_the_paper_preset_names_are_real() -> None:
    text = (config.PRESETS / "math_two_stage" / "paper.yaml").read_text(encoding="utf-8")
    asked = load("paper", *re.findall(r"\bsft\.\w+=\d+", text))
    assert asked.sft is not None
    assert (asked.sft.max_steps, asked.sft.last_step) == (20 * 39, 350)


def test_every_value_of_the_paper_preset_says_where_it_comes_from() -> None:
    """[P] the article, [C] the authors' code, [ours]; behind the value, or in the comment right above it."""
    marks = re.compile(r"\[(P|C|ours)\]")
    above = ""
    unmarked = []
    for line in (config.PRESETS / "math_two_stage" / "paper.yaml").read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            above += line
            continue
        if not line.endswith(":") and not marks.search(line) and not marks.search(above):
            unmarked.append(line)
        above = ""
    assert not unmarked


def test_the_paper_preset_leaves_nothing_to_our_defaults() -> None:
    """A default that we change must not change what the paper did."""
    loaded = config.load(math_two_stage.Config, [config.preset("math_two_stage", "paper")])
    unused = {"data.arithmetic", "model.scratch"}
    # Their weights are 0.
    unused |= {"rl.rewards.overlong_buffer", "rl.rewards.repetition_ngram", "rl.rewards.min_think"}
    # No server, no correction for one.
    unused |= {name for name in loaded.places if name.startswith("rl.vllm.")}
    unused |= {f"rl.vllm_importance_sampling_{name}" for name in ("mode", "clip_max")}
    # Where it runs and who is told.
    unused |= {"model.device", "report_to"}
    assert {key for key, place in loaded.places.items() if place == "default"} - unused == set()


# ---- the README's command -------------------------------------------------------------------------------------------


def readme_command(name: str) -> list[str]:
    """Words of the shell command behind a `<!-- command: name -->` mark."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- command: {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    return shlex.split(block)


@pytest.fixture
def command() -> dict[str, str]:
    program, verb, recipe, *rest = readme_command("gsm8k")
    assert (program, verb, recipe) == ("postgrad", "run", "math_two_stage")
    return dict(word.split("=", 1) for word in rest if "=" in word)


def test_the_command_for_own_data_is_a_whole_config(command: dict[str, str]) -> None:
    asked = load("laptop", *(f"{key}={value}" for key, value in command.items()))
    assert asked.model.path == "models/qwen3-0.6b"
    assert asked.model.scratch is None
    assert asked.data.arithmetic is None
    assert asked.data.files is not None


def test_the_command_for_own_data_runs_on_rows_of_gsm8k(command: dict[str, str], tmp_path: Path) -> None:
    """The README's very settings, with few steps, short answers, a base model of this minute and GSM8K's first rows."""
    base = tmp_path / "base"
    made = tiny.start(tmp_path / "made")
    shutil.copytree(made[1].folder / math_two_stage.make_base(*made), base)
    rows = ROOT / "tests" / "data" / "gsm8k_data"
    command |= {
        "model.path": str(base),
        "model.dtype": "float32",
        **{f"data.files.{name}": str(rows / "train.jsonl") for name in ("sft", "rl")},
        "data.files.test": str(rows / "test.jsonl"),
        "sft.max_steps": "2",
        "sft.gradient_accumulation_steps": "1",
        "sft.warmup_steps": "0",
        "rl.max_steps": "1",
        "rl.warmup_steps": "0",
        "rl.prompts_per_step": "2",
        "rl.num_generations": "2",
        "rl.per_device_train_batch_size": "2",
        # The domain's tokenizer has a token for each letter.
        "rl.max_prompt_length": "1024",
        "rl.max_completion_length": "8",
        "eval.max_tokens": "8",
        "eval.bootstrap": "100",
    }
    asked = load("laptop", *(f"{key}={value}" for key, value in command.items()))
    run = Run.create(tmp_path / "run", recipe="math_two_stage", preset="laptop", config=asked, command=["postgrad"])
    summary: dict[str, Any] = math_two_stage.main(asked, run)
    assert (summary["data"]["sft"], summary["data"]["rl"], summary["data"]["validation"]) == (38, 38, 2)
    assert summary["data"]["test"] == summary["models"]["rl"]["n"] == 20
    assert summary["data"]["selection"]["kept"] == 40
