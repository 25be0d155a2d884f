"""The GPU's benchmark in miniature: its rows run on a CPU and their twins agree; what differs, fails or is missing is told as such."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import __main__ as bench
from bench.gpu import floor
from bench.gpu.place import Place, text, tokenizer
from bench.gpu.row import Row, agree
from postgrad.report.results import results_table

ROOT = Path(__file__).parents[1]
VLLM = """
import torch
from types import SimpleNamespace as Told
from transformers import AutoModelForCausalLM

__version__ = "of this test"
SamplingParams = Told


class LLM:
    def __init__(self, *, model, skip_tokenizer_init, dtype, max_model_len, max_num_seqs, gpu_memory_utilization, seed):
        assert skip_tokenizer_init
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.empty = False

    def reset_prefix_cache(self):
        self.empty = True

    def generate(self, prompts, sampling_params, *, use_tqdm):
        made = [self.one(p.prompt_token_ids, how) for p, how in zip(prompts, sampling_params, strict=True)]
        assert self.empty or len(prompts) == 1, "a round would find the prompts of the last"
        self.empty = False
        return made

    @torch.no_grad()
    def one(self, prompt, how):
        ids, logprobs = list(prompt), []
        for _ in range(how.max_tokens):
            scores = self.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            ids.append(int(scores.argmax()))
            logprobs.append({ids[-1]: Told(logprob=float(scores.max()))})
        return Told(outputs=[Told(token_ids=ids[len(prompt):], logprobs=logprobs)])
"""
"""As much of vLLM as the row calls: the greedy tokens of the same folder."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(torch.device("cpu"), torch.float32, tiny=True, rounds=1, scratch=tmp_path)


def measured(tmp_path: Path, *rows: str, path: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Rows as the command prints them, from a process of its own: the peers' warnings are not ours to fail on."""
    results = tmp_path / "results" / "bench-gpu.json"
    command = [sys.executable, "-m", "bench.gpu", "--tiny", "--rounds", "1", "--results", str(results), *rows]
    environment = {**os.environ, "PYTHONPATH": f"{path}:{ROOT}"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["name"] for one in told] == list(rows)
    assert json.loads(results.read_text())["rows"] == told
    # The README's table can be made of them.
    assert all(name in results_table(results.parent) for name in rows)
    return {one["name"]: one for one in told}


def test_rows_beside_trl_and_transformers(tmp_path: Path) -> None:
    rows = measured(tmp_path, "limits", "sft-0.6b", "rollout-0.6b", "grpo-0.6b", "head")
    assert "TRL" in rows["sft-0.6b"]["peer_name"]
    assert set(rows["sft-0.6b"]["twin"]) == {
        "loss, TRL wrapped, float32 weights",
        "gradient, TRL wrapped, float32 weights",
    }
    assert all(apart < 1e-3 for row in rows.values() for apart in row["twin"].values())
    assert 0 < rows["grpo-0.6b"]["rollout_share"]["ours"] < 1


def test_a_peer_that_is_not_installed_is_told_of(tmp_path: Path) -> None:
    rows = measured(tmp_path, "serve-0.6b", "groups-4b")
    for row in rows.values():
        assert row["peers"] == {"vLLM": "failed: it is not installed"}
        assert row["peer"] is None
        assert row["ratio"] is None
        assert row["ours"] > 0


def test_vllm_runs_in_a_process_of_its_own_on_the_same_weights(tmp_path: Path) -> None:
    fake = tmp_path / "path" / "vllm"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(VLLM)
    (fake / "inputs.py").write_text("from types import SimpleNamespace as TokensPrompt\n")
    row = measured(tmp_path, "groups-0.6b", path=fake.parent)["groups-0.6b"]
    assert row["peer_name"] == "vLLM of this test"
    assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=1e-3)
    assert row["twin"]["log-probability, vLLM"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[], ["--sweep"]], ids=["table", "sweep"])
def test_the_kernels_table_in_miniature(asked: list[str]) -> None:
    command = [sys.executable, "-m", "bench.gpu.kernels", "--tiny", *asked]
    interpreted = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=interpreted)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("error of logp, H, dhidden, dweight") == 2


@pytest.mark.slow
def test_the_steps_parts_in_miniature() -> None:
    command = [sys.executable, "-m", "bench.gpu.step", "--tiny"]
    interpreted = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=interpreted)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count('"part": "step"') == 6


def test_adapters_beside_peft_and_trl(tmp_path: Path) -> None:
    rows = measured(tmp_path, "lora-0.6b", "dora-0.6b")
    for row in rows.values():
        assert row["peer_name"] == "PEFT + TRL wrapped"
        assert all(apart < 1e-3 for apart in row["twin"].values())
    assert "DoRA, rank 16" in rows["dora-0.6b"]["workload"]


@pytest.mark.slow
def test_every_other_row(tmp_path: Path) -> None:
    rows = measured(tmp_path, "sft-1.7b", "sft-4b", "serve-4b", "groups-0.6b", "length")
    assert "recomputed" not in rows["sft-1.7b"]["workload"], "there was memory enough"
    assert "recomputed" in rows["sft-4b"]["workload"]


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    for row in measured(tmp_path, "two-gpus-sft", "two-gpus-grpo").values():
        assert row["twin"]["gradient norm, one process"] < 1e-4


def test_a_row_that_fails_is_told_in_its_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Place) -> Row:
        raise RuntimeError("no luck")

    monkeypatch.setitem(bench.ROWS, "broken", broken)
    told = bench.outcome("broken", place)
    assert told["failed"].endswith("RuntimeError: no luck\n")
    assert "ours" not in told


def test_no_row_is_begun_after_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--tiny", "--minutes", "0", "sft-4b"])
    monkeypatch.setattr(bench.warnings, "simplefilter", lambda _: None)
    bench.main()
    assert json.loads(capsys.readouterr().out)["skipped"] == "--minutes 0 are over"


def test_a_row_stands_against_its_fastest_peer() -> None:
    peers = {"slow": [8.0, 9.0], "fast": [5.0, 4.0], "large": "out of memory: 80 GiB"}
    cost = Row("work", "s", higher=False, ours=[3.0, 2.0], peers=peers, twin={}, limit=1.0).told("row")
    assert (cost["peer_name"], cost["peer"], cost["ratio"], cost["fraction_of_limit"]) == ("fast", 4.0, 2.0, 0.5)
    assert cost["peers"]["large"] == "out of memory: 80 GiB"
    rate = Row("work", "tokens / s", higher=True, ours=[3.0, 2.0], peers=peers, twin={}, limit=4.0).told("row")
    assert (rate["peer_name"], rate["peer"], rate["ratio"], rate["fraction_of_limit"]) == ("slow", 9.0, 1 / 3, 0.75)


@pytest.mark.parametrize("apart", [2e-4, float("nan")])
def test_what_differs_is_not_compared(place: Place, apart: float) -> None:
    with pytest.raises(RuntimeError, match="no time of the two can be compared"):
        agree(place, "loss", apart, bfloat16=1.0, float32=1e-4)


def test_a_row_replaces_its_own_earlier_result(tmp_path: Path) -> None:
    path = tmp_path / "bench-gpu.json"
    for row in ({"name": "a", "ours": 1}, {"name": "b", "ours": 2}, {"name": "a", "ours": 3}):
        bench.merge(path, row)
    assert json.loads(path.read_text())["rows"] == [{"name": "b", "ours": 2}, {"name": "a", "ours": 3}]


def test_the_floor_reads_weights_and_live_keys_once_a_step(place: Place) -> None:
    config = place.config("0.6b")
    place.rates.update({"matmul": float("inf"), "copy": 1.0})
    # 2 layers, keys and values of 2 heads x 8 numbers of 4 bytes.
    token = 2 * 2 * 2 * 8 * 4
    asked = [floor.Asked((7, 7, 7), 2), floor.Asked((7, 7, 7), 1)]
    # Step 1: weights and both prompts; step 2: weights, the first's prompt and its one new token.
    least = floor.seconds(place, config, 10, asked)
    assert least["read apart"] == 2 * 40 + token * (3 + 3 + 3 + 1)
    assert least["shared"] == 2 * 40 + token * (3 + 3 + 1)


def test_a_prompt_has_the_tokens_it_was_made_of_and_its_end_is_never_sampled() -> None:
    words = tokenizer(64)
    assert words(text([5, 63, 17]))["input_ids"] == [5, 63, 17]
    assert words.eos_token_id == 64
