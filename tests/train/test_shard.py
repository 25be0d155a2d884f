"""Two processes divide a model and a step, and train as one does: loss, gradient, samples, checkpoints."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from postgrad import export
from postgrad.ranks import ALONE, PeerLost, Ranks, joined
from postgrad.recipes import math_two_stage
from postgrad.records import Example
from postgrad.run import Preempted, Run, read_lines
from postgrad.train import checkpoint, fit, instead, layers, loss, optim, shard, source
from postgrad.train import model as models
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.settings import SftSettings
from tests import tiny

CPU = torch.device("cpu")
DEADLINE_S = 240.0
NOT_COMPARED = ("time", "step_time", "stage")

# ---- Two processes --------------------------------------------------------------------------------------------------


def child(
    rank: int, size: int, folder: Path, meeting_s: float, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    told: dict[str, Any] = {}
    try:
        with joined(deadline_s=meeting_s, meeting=f"file://{folder}/meeting") as ranks:
            told["result"] = work(ranks, *arguments)
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
    torch.save(told, folder / f"{rank}.pt")


def begin(
    folder: Path, work: Callable[..., Any], *arguments: Any, size: int = 2, meeting_s: float = DEADLINE_S
) -> list[Any]:
    folder.mkdir()
    # A fork server that has imported torch once starts each process in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "postgrad.train.fit", "postgrad.recipes.math_two_stage"])
    processes = [
        context.Process(target=child, args=(rank, size, folder, meeting_s, work, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def end(processes: list[Any], folder: Path) -> list[dict[str, Any]]:
    """What each told; none outlives its deadline."""
    deadline = time.monotonic() + DEADLINE_S
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {len(processes)} processes hung"
    files = [folder / f"{rank}.pt" for rank in range(len(processes))]
    return [torch.load(file, weights_only=False) if file.exists() else {"error": "died"} for file in files]


def together(folder: Path, work: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """What `work(ranks, *arguments)` returns on each rank."""
    told = end(begin(folder, work, *arguments, size=size), folder)
    assert not [one["error"] for one in told if "error" in one]
    return [one["result"] for one in told]


def load(folder: Path, ranks: Ranks, dtype: torch.dtype = torch.float32) -> Any:
    return models.load(str(folder), dtype=dtype, device=CPU, ranks=ranks)


def apart(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, as a share of the largest number of its tensor."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-30)) for name in b)


# ---- A step ---------------------------------------------------------------------------------------------------------

POLICY = loss.policy(epsilon_low=0.2, epsilon_high=0.3, beta=0.05, temperature=0.9)


def micro_batches(number: int) -> list[Batch]:
    """Of different lengths, weights and counts."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        documents = []
        for place in range(1 + index % 3):
            length = 6 + 4 * index + place
            weights = np.r_[np.zeros(2), rng.uniform(0.5, 2, length - 2)].astype(np.float32)
            streams = {
                name: rng.normal(0, scale, length).astype(np.float32) - shift
                for name, scale, shift in (("advantages", 1, 0), ("old_logprobs", 0.1, 8), ("ref_logprobs", 0.1, 8))
            }
            streams["sampled_logprobs"] = streams["old_logprobs"]
            ids = tuple(int(token) for token in rng.integers(0, 200, length))
            documents.append(Document(f"{index}.{place}", ids, weights, streams))
        made.append(pack(documents, count=1.5 + index))
    return made


def step(ranks: Ranks, folder: Path, number: int, kind: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Numbers and gradients of one update that moves nothing."""
    model = load(folder, ranks)
    if kind == "recomputed":
        layers.prepare(model, compiled=False, recomputed=True)
    if kind == "compiled":
        layers.prepare(model, compiled=True, recomputed="selective", backend="aot_eager")
    gradients = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def look(*_: Any) -> None:
        gradients.update({name: shard.full(p.grad.detach()).clone() for name, p in model.named_parameters()})

    optimizer.register_step_pre_hook(look)
    objective = POLICY if kind.startswith("policy") else loss.likelihood
    with pytest.MonkeyPatch.context() as patch:
        if kind.endswith("in the head"):
            patch.setattr(instead, "possible", lambda model: True)
        return fit.update(model, micro_batches(number), objective, optimizer, 0.0, 1e30, 1, ranks), gradients


STEPS = [(4, "likelihood"), (5, "likelihood"), (1, "likelihood"), (5, "policy"), (3, "recomputed")]
STEPS += [(3, "likelihood in the head"), (3, "policy in the head")]
"""How many micro-batches for two ranks: also an odd number, and fewer than ranks."""


def all_steps(ranks: Ranks, folder: Path) -> list[Any]:
    return [step(ranks, folder, *one) for one in STEPS]


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # as in test_decoder_layers
@pytest.mark.parametrize("size", [2, 3])
def test_loss_and_gradient_are_those_of_one_process(
    tmp_path: Path, model_folder: Path, size: int, measured: Any
) -> None:
    alone = all_steps(ALONE, model_folder)
    for found in together(tmp_path / "ranks", all_steps, model_folder, size=size):
        for (numbers, gradients), (wanted, whole) in zip(found, alone, strict=True):
            assert numbers == pytest.approx(wanted, rel=1e-6)
            assert measured(f"gradient, {size} ranks", apart(gradients, whole)) < 1e-6


def test_compiled_and_recomputed_layers_are_divided_too(tmp_path: Path, model_folder: Path) -> None:
    wanted, whole = step(ALONE, model_folder, 3, "likelihood")
    for numbers, gradients in together(tmp_path / "ranks", step, model_folder, 3, "compiled"):
        assert numbers == pytest.approx(wanted, rel=1e-6)
        assert apart(gradients, whole) < 1e-6


# ---- bfloat16 -------------------------------------------------------------------------------------------------------


def halved(ranks: Ranks, folder: Path, saved: Path) -> dict[str, Any]:
    """Three steps in bfloat16: loss and gradient norm of each, then what is saved; and what is read back from `saved`."""
    model = load(folder, ranks, torch.bfloat16)
    settings = SFT.model_copy(update={"adam_beta1": 0.5})
    optimizer = optim.adamw(model, settings)
    numbers = [
        fit.update(model, micro_batches(5), loss.likelihood, optimizer, 1e-3, 1.0, taken, ranks) for taken in (1, 2, 3)
    ]
    taken = checkpoint.snapshot(3, model=model, optimizer=optimizer, trainer={}, host=shard.HostMemory(), ranks=ranks)
    if ranks.size == 1:
        torch.save({"weights": taken.weights, "moments": taken.moments}, saved)
    kept = torch.load(saved)
    shard.take_weights(model, kept["weights"])
    shard.take_moments(optimizer, kept["moments"])
    again = checkpoint.snapshot(3, model=model, optimizer=optimizer, trainer={}, host=shard.HostMemory(), ranks=ranks)
    return {
        "numbers": numbers,
        "weights": taken.weights,
        "moments": taken.moments,
        "again": {"weights": again.weights, "moments": again.moments},
    }


def test_in_bfloat16_masters_are_divided_too_and_put_together_to_the_last_bit(
    tmp_path: Path, model_folder: Path, measured: Any
) -> None:
    saved = tmp_path / "saved.pt"
    alone = halved(ALONE, model_folder, saved)
    states = alone["moments"]["state"]
    assert {values["residual"].dtype for values in states.values()} == {torch.int16}
    assert any(values["residual"].any() for values in states.values())
    found = together(tmp_path / "ranks", halved, model_folder, saved)[0]
    for numbers, wanted in zip(found["numbers"], alone["numbers"], strict=True):
        assert numbers == pytest.approx(wanted, rel=2e-3)
    for name, weight in found["weights"].items():
        assert weight.dtype == torch.bfloat16
        far = (weight.float() - alone["weights"][name].float()).abs().max()
        assert measured("weights after 3 steps in bfloat16, 2 ranks", float(far)) < 0.01
    again, kept = found["again"], torch.load(saved)
    for name, weight in kept["weights"].items():
        assert torch.equal(again["weights"][name], weight)
    for index, values in kept["moments"]["state"].items():
        for name, value in values.items():
            assert again["moments"]["state"][index][name].dtype == value.dtype
            assert torch.equal(again["moments"]["state"][index][name], value), name


# ---- Stage one, and going on with another number of ranks -----------------------------------------------------------

SFT = SftSettings(
    max_steps=6,
    learning_rate=2e-3,
    warmup_steps=1,
    max_length=128,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=3,
    save_steps=3,
    eval_steps=2,
)


def sft(ranks: Ranks, model_folder: Path, folder: Path, signalled: int | None = None, **changed: Any) -> str:
    """A stage of six steps; after step 3 a signal may reach one rank."""
    from postgrad.domains import arithmetic

    tokenizer = models.load_tokenizer(str(model_folder))
    problems = arithmetic.problems("train", 24, min_steps=2, max_steps=4, seed=0)
    examples = [Example(p.prompt, arithmetic.traces(p, 1, recheck=0.2, seed=0)[0], id=p.id) for p in problems]
    documents = source.supervised(tokenizer, examples, SFT)[0]
    run = Run(folder, {"recipe": "test", "preset": "test"})
    run.ranks = ranks

    def validate(model: Any, taken: int) -> dict[str, float]:
        if taken == 2 and signalled == ranks.rank:
            run.stop_requested = "SIGTERM"
        value = fit.mean_loss(model, documents[:5], tokens=64, ranks=ranks)
        return {"eval_loss": value, "eval_score": -value}

    settings = SFT.model_copy(update=changed)
    feed = source.Packed(documents, settings, seed=3)
    try:
        fit.fit(run, "sft", load(model_folder, ranks), tokenizer, feed, loss.likelihood, settings, validate)
    except Preempted as stop:
        return str(stop)
    return "done"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in read_lines(folder / "metrics.jsonl")]


def moments(saved: Path) -> dict[str, torch.Tensor]:
    state = torch.load(saved / "state" / "optimizer.pt", weights_only=True)["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def test_stage_one_is_that_of_one_process_and_goes_on_with_any_number(
    tmp_path: Path, model_folder: Path, measured: Any
) -> None:
    one, two, less, more = (tmp_path / name for name in ("one", "two", "less", "more"))
    for folder in (one, two, less, more):
        folder.mkdir()
    assert sft(ALONE, model_folder, one) == "done"
    assert together(tmp_path / "a", sft, model_folder, two) == ["done", "done"]
    # A signal that reaches rank 1 alone stops both after the same step.
    stops = together(tmp_path / "b", sft, model_folder, less, 1)
    assert stops[0] == stops[1]
    assert stops[0].startswith("stopped by SIGTERM after step 2 of 6")
    assert sft(ALONE, model_folder, less) == "done"
    assert sft(ALONE, model_folder, more, 0).startswith("stopped by SIGTERM after step 2 of 6")
    assert together(tmp_path / "c", sft, model_folder, more) == ["done", "done"]

    last = one / "checkpoints" / "sft" / "step-000006"
    wanted = AutoModelForCausalLM.from_pretrained(last).state_dict()
    for folder in (two, less, more):
        saved = folder / "checkpoints" / "sft" / "step-000006"
        assert checkpoint.is_whole(saved)
        for row, other in zip(metrics(folder), metrics(one), strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        own, whole = ({str(p.relative_to(of)) for p in of.rglob("*") if p.is_file()} for of in (folder, one))
        assert own == whole, "one process writes, and what one process writes"
        assert (saved / "model.safetensors").stat().st_size == (last / "model.safetensors").stat().st_size
        assert (saved / "config.json").read_text() == (last / "config.json").read_text()
        found = AutoModelForCausalLM.from_pretrained(saved).state_dict()
        assert measured("weights after 6 steps", apart(found, wanted)) < 1e-4
        assert measured("moments after 6 steps", apart(moments(saved), moments(last))) < 1e-4


# ---- What goes wrong on one rank ------------------------------------------------------------------------------------


def broken(ranks: Ranks, folder: Path) -> None:
    batches = micro_batches(4)
    batches[3].streams_K["advantages"][5] = math.nan
    model = load(folder, ranks)
    fit.update(model, batches, POLICY, torch.optim.SGD(model.parameters()), 0.0, 1.0, 7, ranks)


def test_a_loss_that_is_not_a_number_is_told_by_all_ranks_alike(tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "ranks"
    told = [one["error"] for one in end(begin(folder, broken, model_folder), folder)]
    assert told[0] == told[1]
    assert told[0].startswith(
        "Failed: step 7: the loss is nan in micro-batch 3, sample '3.0', tensor token_losses at trained token 5 (id "
    )


def waits(ranks: Ranks, folder: Path) -> None:
    """Rank 1 leaves in the middle of a step."""
    model = load(folder, ranks)
    optimizer = torch.optim.SGD(model.parameters())
    for taken in range(10_000):
        if ranks.rank == 1 and taken == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        fit.update(model, micro_batches(2), loss.likelihood, optimizer, 0.0, 1.0, taken + 1, ranks)


def late(ranks: Ranks, folder: Path, told_file: Path) -> list[str]:
    """What rank 0 is told that waits for rank 1, first in a meeting and then in a forward pass."""
    model = load(folder, ranks)
    documents = [Document("one", (1, 2, 3), np.array([0, 1, 1], np.float32))]
    if ranks.rank == 1:
        time.sleep(12)
        return []
    told = []
    for wait in (lambda: ranks.everyone(None), lambda: fit.mean_loss(model, documents)):
        with pytest.raises(PeerLost) as lost, ranks.guard():
            wait()
        told.append(str(lost.value))
    told_file.write_text(json.dumps(told))
    return told


def test_a_dead_rank_ends_the_others_with_a_message(tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "ranks"
    started = time.monotonic()
    told = end(begin(folder, waits, model_folder), folder)
    assert time.monotonic() - started < DEADLINE_S / 2, "noticed, not waited for"
    assert told[1]["error"] == "died"
    assert told[0]["error"].startswith("PeerLost: rank 0 of 2 lost another rank: it ended, or was ")


def test_a_late_rank_ends_the_others_at_the_deadline(tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "ranks"
    end(begin(folder, late, model_folder, folder / "told", meeting_s=4), folder)
    told = json.loads((folder / "told").read_text())
    assert len(told) == 2
    for message in told:
        assert message.startswith("rank 0 of 2 lost another rank: it ended, or was 4 s late")


def test_more_than_one_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="4 ranks of which 2 are on this node"), joined():
        pass


def test_sharing_and_gathering_alone_are_the_plain_thing() -> None:
    assert ALONE.gather(ALONE.share([1, 2, 3])) == [1, 2, 3]
    assert ALONE.spread(str, [1, 2]) == ["1", "2"]
    assert [Ranks(rank, 3).share(range(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Ranks(rank, 3).idle(7) for rank in range(3)] == [0, 1, 1]
    assert [Ranks(rank, 3).idle(1) for rank in range(3)] == [0, 1, 1]
    assert [Ranks(rank, 3).idle(6) for rank in range(3)] == [0, 0, 0]


# ---- The whole recipe -----------------------------------------------------------------------------------------------

HARDER = ("rl.num_iterations=2", "rl.beta=0.02", "rl.max_resample=1", "sft.gradient_accumulation_steps=3")


def recipe(ranks: Ranks, folder: Path) -> Any:
    config = tiny.settings(*HARDER)
    run = Run.open(folder)
    run.ranks = ranks
    return math_two_stage.main(config, run)


def test_the_recipe_of_two_ranks_samples_and_trains_what_one_does(tmp_path: Path, measured: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        tiny.start(folder, *HARDER)
    alone = recipe(ALONE, one)
    summaries = together(tmp_path / "ranks", recipe, two)
    assert summaries[0] == summaries[1]
    for summary in (alone, *summaries):
        del summary["seconds"]
    assert summaries[0] == alone
    rows = {
        folder: [row for path in sorted((folder / "rollouts").iterdir()) for row in read_lines(path)]
        for folder in (one, two)
    }
    assert len(rows[one]) > 50
    assert [row["text"] for row in rows[two]] == [row["text"] for row in rows[one]]
    for row, other in zip(metrics(two), metrics(one), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert (two / "evals" / "rl.jsonl").read_text() == (one / "evals" / "rl.jsonl").read_text()
    exported = []
    for folder in (one, two):
        export.to_hugging_face(folder, "rl", tmp_path / f"{folder.name}-exported")
        exported.append(AutoModelForCausalLM.from_pretrained(tmp_path / f"{folder.name}-exported").state_dict())
    assert measured("weights after both stages", apart(*exported)) < 1e-4


def test_torchrun_stops_with_a_checkpoint_and_one_process_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = [*tiny.OVERRIDES, *HARDER]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "postgrad"]
    log = tmp_path / "log"
    with log.open("w") as file:
        started = subprocess.Popen(
            [sys.executable, *torchrun, "run", "math_two_stage", "--out", str(out), *overrides],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (out / "metrics.jsonl").exists() or len(read_lines(out / "metrics.jsonl")) < 2:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        started.send_signal(signal.SIGTERM)
        started.wait(DEADLINE_S)
    finally:
        started.kill()
        started.wait()
    done = len(read_lines(out / "metrics.jsonl"))
    assert f"stopped by SIGTERM after step {done} of 24 of sft; saved in {out}" in log.read_text()
    assert log.read_text().count("run folder:") == 1
    assert (out / "checkpoints" / "sft" / "latest").read_text() == f"step-{done:06d}\n"
    recipe(ALONE, out)
    assert [row["step"] for row in read_lines(out / "metrics.jsonl")] == [*range(1, 25), *range(1, 13)]
