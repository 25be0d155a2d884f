"""Stage two of the recipe, its rollouts and validations sampled by a server that follows the weights over real HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import UPDATE, Fake

from postgrad import report
from postgrad.domains import arithmetic
from postgrad.recipes import math_two_stage
from postgrad.run import Failed, Run, read_lines
from tests import tiny

STEPS = 3
SMALL = (
    "rl.sampler=vllm",
    "sft=null",
    "data.arithmetic.train=40",
    "data.arithmetic.validation=3",
    "data.arithmetic.test=3",
    f"rl.max_steps={STEPS}",
    f"rl.eval_steps={STEPS}",
    "rl.prompts_per_step=2",
    "rl.learning_rate=1.0e-2",  # so that weights which are not followed show
    "rl.scale_rewards=none",
    "eval.samples=1",
)
RATIO, LOGP = "sampling/importance_sampling_ratio", "sampling/sampling_logp_difference"


def speaking(fake: Fake, folder: Path) -> Callable[[dict[str, Any]], tuple[list[int], list[float]]]:
    """Sample token by token with transformers' own model and the weights that the server was sent."""
    from transformers import AutoModelForCausalLM

    loaded: list[Any] = []

    def says(body: dict[str, Any]) -> tuple[list[int], list[float]]:
        with fake.lock, torch.no_grad():
            if not loaded:
                loaded.append(AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "base").eval())
            (model,) = loaded
            assert not model.load_state_dict(fake.weights, strict=False).unexpected_keys
            generator = torch.Generator().manual_seed(body["seed"])
            ids: list[int] = []
            logprobs: list[float] = []
            while len(ids) < body["max_tokens"] and fake.eos not in ids:
                logits = model(torch.tensor([[*body["prompt"], *ids]])).logits[0, -1]
                told = (logits / body["temperature"]).log_softmax(-1)
                token = int(torch.multinomial(told.exp(), 1, generator=generator))
                ids.append(token)
                logprobs.append(float(told[token]))
            return ids, logprobs

    return says


@pytest.fixture
def fake_of_arithmetic(fake: Fake) -> Fake:
    fake.eos = arithmetic.tokenizer().eos_token_id
    return fake


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if row["stage"] == "rl"]


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_a_run_samples_with_the_server_and_agrees_with_it(fake_of_arithmetic: Fake, tmp_path: Path, mode: str) -> None:
    fake, folder = fake_of_arithmetic, tmp_path / "run"
    fake.says = speaking(fake, folder)
    tiny.run(folder, *SMALL, f"rl.vllm.server_base_url={fake.url}", f"rl.vllm_importance_sampling_mode={mode}")
    rows = steps(folder)
    assert len(rows) == STEPS
    for row in rows:
        assert row[f"{LOGP}/mean"] <= row[f"{LOGP}/max"] <= 1e-4, "the server has the trainer's weights of this step"
        assert row[f"{RATIO}/min"] == pytest.approx(1, abs=1e-3)
        assert row[f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3)
        assert row[f"{RATIO}/max"] == pytest.approx(1, abs=1e-3)
    # One update before each rollout and each of two validations: at the start, and after the last step.
    updates = [path for path in fake.paths if path in UPDATE]
    assert updates == UPDATE * (STEPS + 2)
    assert len(fake.completions) == STEPS * 2 * 4 + 2 * 3
    assert len({body["seed"] for body in fake.completions}) == len(fake.completions)
    traces = [row for step in range(1, STEPS + 1) for row in read_lines(folder / f"rollouts/rl-{step:06d}.jsonl")]
    assert len(traces) == STEPS * 2 * 4
    page = report.write(folder).read_text(encoding="utf-8")
    assert "Sampler and trainer agree" in page
    assert "Correction of the sampler&#39;s mismatch" in page


def test_weights_that_are_not_followed_show_in_every_later_step(fake_of_arithmetic: Fake, tmp_path: Path) -> None:
    """A server that acknowledges updates and keeps its first weights: the check sees it, and the correction bounds it."""
    fake, folder = fake_of_arithmetic, tmp_path / "run"
    fake.says = speaking(fake, folder)
    first: dict[str, torch.Tensor] = {}

    def keep(nth: int, body: Any) -> None:
        first.update({} if first else fake.weights)
        fake.weights = first

    fake.rules["/finish_weight_update"] = keep
    overrides = ("rl.vllm_importance_sampling_mode=token_truncate", "rl.vllm_importance_sampling_clip_max=1.5")
    tiny.run(folder, *SMALL, f"rl.vllm.server_base_url={fake.url}", *overrides)
    started, *later = steps(folder)
    assert started[f"{LOGP}/max"] <= 1e-4
    for row in later:
        assert row[f"{LOGP}/max"] > 1e-2
        assert row[f"{RATIO}/min"] < 0.99
        assert row[f"{RATIO}/max"] <= 1.5


def test_a_server_of_our_own_that_does_not_start_ends_the_run_with_its_words(tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[2])\nsys.exit('no GPU here')\n")
    command.chmod(0o755)
    folder = tmp_path / "run"
    with pytest.raises(Failed, match=r"(?s)ended with exit code 1; .*checkpoints/base.*no GPU here"):
        tiny.run(folder, *SMALL, f"rl.vllm.executable={command}")
    assert Run.open(folder).stages()["rl"]["status"] != "done"
    assert "no GPU here" in (folder / "vllm.log").read_text()


def test_what_no_server_can_do_is_told_before_the_data_is_prepared_for_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give rl and eval the same temperature and filters"):
        tiny.run(tmp_path / "run", *SMALL, "rl.temperature=0.7", "eval.top_p=0.9")


@pytest.mark.parametrize("sampler", ["engine", "vllm"])
@pytest.mark.parametrize("given", [None, True, False])
def test_the_correction_is_on_where_the_server_is_unless_it_is_told(
    sampler: str, given: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    class Enough(Exception):
        pass

    def policy(*, correct: Any, **_: Any) -> Any:
        seen.append(correct is not None)
        raise Enough

    monkeypatch.setattr("postgrad.train.loss.policy", policy)
    value = "null" if given is None else str(given).lower()
    with pytest.raises(Enough):
        tiny.run(tmp_path / "run", *SMALL, f"rl.sampler={sampler}", f"rl.vllm_importance_sampling_correction={value}")
    assert seen == [sampler == "vllm" if given is None else given]


def test_a_tensor_parallel_server_needs_gpus_of_its_own() -> None:
    with pytest.raises(ValueError, match="tensor_parallel_size=2 and devices=None names 1"):
        tiny.settings("rl.vllm.tensor_parallel_size=2")
    assert math_two_stage.Config.model_validate(
        tiny.settings("rl.vllm.tensor_parallel_size=2", "rl.vllm.devices='1,2'").model_dump()
    )
