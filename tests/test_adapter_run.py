"""A recipe with an adapter: each stage gives on a whole model, the order of Gazal-R1; the export writes both and says how far apart they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from postgrad import cli, export, wiring
from postgrad.recipes import math_two_stage
from postgrad.run import Run
from postgrad.train import adapter
from tests import tiny

SHORT = (
    "sft.max_steps=4",
    "sft.warmup_steps=1",
    "sft.eval_steps=2",
    "sft.optim=exadam",
    "rl.max_steps=2",
    "rl.eval_steps=2",
    "rl.prompts_per_step=2",
    "rl.beta=0",
    "model.adapter={r: 4, use_dora: true, use_rslora: true}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "run"
    tiny.run(folder, *SHORT)
    return folder


def test_each_stage_trains_an_adapter_and_gives_on_a_whole_model(run: Path) -> None:
    held = {path.name for path in (run / "checkpoints").iterdir()}
    assert held == {"base", "sft", "sft-merged", "rl", "rl-merged"}
    stages = json.loads((run / "stages.json").read_text())
    assert (stages["sft"]["result"], stages["rl"]["result"]) == ("checkpoints/sft-merged", "checkpoints/rl-merged")
    sft, rl = export.checkpoint(run, "sft"), export.checkpoint(run, "rl")
    assert adapter.is_folder(sft)
    assert not list(sft.glob("model*"))
    assert Path(adapter.base(sft)) == (run / "checkpoints/base").resolve()
    assert Path(adapter.base(rl)) == (run / "checkpoints/sft-merged").resolve(), "merged first, then trained by rewards"
    base, merged = (weights(run / "checkpoints" / name) for name in ("base", "sft-merged"))
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert moved == {name for name in base if name.endswith("_proj.weight")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_the_export_writes_the_adapter_and_the_merged_model(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = CliRunner().invoke(cli.app, ["export", str(run), "--to", "peft", str(out)])
    assert told.exit_code == 0, told.output
    found = re.search(
        r"8 prompts: logits of adapter and merged model differ by at most (\S+); the largest is (\S+)", told.output
    )
    assert found
    assert 0 < float(found[1]) < 1e-4 < float(found[2])
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.no_grad():
        live: Any = AutoPeftModelForCausalLM.from_pretrained(out / "adapter")(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out / "merged")(input_ids=ids).logits
    assert torch.allclose(live, merged, atol=1e-4)
    assert not (out / "adapter" / "state").exists()
    with pytest.raises(ValueError, match=r"is an adapter, no whole model: --to peft"):
        export.to_hugging_face(run, "best", tmp_path / "other")


def test_trl_is_told_how_to_make_the_adapter(run: Path, tmp_path: Path) -> None:
    export.to_trl(run, tmp_path / "trl")
    for name in ("sft", "grpo"):
        text = (tmp_path / "trl" / f"{name}.yaml").read_text()
        assert "model.adapter: give the trainer peft_config=peft.LoraConfig(**{'r': 4, 'lora_alpha': 32" in text
    assert "optim=exadam: AdamW there" in (tmp_path / "trl" / "sft.yaml").read_text()


def test_a_server_that_cannot_have_the_adapter_is_not_started(run: Path) -> None:
    asked = tiny.settings(*SHORT, "rl.sampler=vllm")
    with (
        pytest.raises(ValueError, match=r"rl\.sampler=vllm with model\.adapter: .* set rl\.sampler=engine"),
        wiring.samplers(asked.model, asked.rl, asked.eval, Run.open(run), "checkpoints/base", None, [], 0),
    ):
        pass


def test_a_plan_counts_what_the_adapter_holds() -> None:
    whole, small = (math_two_stage.plan(tiny.settings(*more)) for more in ((), ("model.adapter={r: 2}",)))
    # Two layers: q and o 32 x 32, k and v 32 x 16, gate and up 32 x 64, down 64 x 32; rank 2.
    count = 2 * 2 * (2 * 64 + 2 * 48 + 3 * 96)
    assert small["model"].endswith(f"; {count:,} more of an adapter are trained")
    assert "adapter" not in whole["model"]
