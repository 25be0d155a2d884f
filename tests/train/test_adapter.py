"""Adapters beside PEFT's own and a few lines of their formulas; merging gives back every bit; training resumes bit for bit."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners import lora
from safetensors.torch import load_file
from torch import nn

from postgrad.attention import Packed
from postgrad.domains import arithmetic
from postgrad.records import Example
from postgrad.run import Preempted, Run
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.pages import Pages
from postgrad.sample.prepacked import prepacked
from postgrad.train import adapter, checkpoint, fit, layers, loss, lowrank, shard, source
from postgrad.train import model as models
from postgrad.train.settings import Adapter, SftSettings

KINDS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "DoRA + rsLoRA": {"use_dora": True, "use_rslora": True},
}
KIND = pytest.mark.parametrize("kind", KINDS)
# PEFT asks transformers by a name that transformers has renamed.
PEFT_ITSELF = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def wanted(kind: str, **changed: Any) -> Adapter:
    return Adapter(**({"r": 4, "lora_alpha": 8} | KINDS[kind] | changed))


def stirred(model: Any) -> Any:
    """As after some steps: an adapter that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight += 0.2 * torch.randn(weight.shape, generator=generator).to(weight)
    return model


def adapted(model: Any, kind: str, **changed: Any) -> Any:
    adapter.attach(model, wanted(kind, **changed), seed=3)
    return stirred(model)


def by_peft(model: Any) -> Any:
    """The same adapter with PEFT's own forward."""
    theirs = deepcopy(model)
    for module in theirs.modules():
        if isinstance(module, lowrank.Linear):
            module.__class__ = lora.Linear
    return theirs


IDS = torch.tensor([[1, 7, 3, 200, 41, 9]])


def logits(model: Any) -> torch.Tensor:
    layout = Packed([IDS.shape[1]], torch.device("cpu"))
    made: torch.Tensor = model(input_ids=IDS, layout=layout).logits.detach()
    return made


@pytest.fixture
def batches(tokenizer: Any) -> list[Any]:
    problems = arithmetic.problems("train", 6, min_steps=2, max_steps=4, seed=0)
    examples = [Example(p.prompt, arithmetic.traces(p, 1, recheck=0.2, seed=0)[0], id=p.id) for p in problems]
    return list(source.Packed(source.supervised(tokenizer, examples, SFT)[0], SFT, seed=3).step(None, 0).batches)


# ---- The forward pass -----------------------------------------------------------------------------------------------


@KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fresh_adapter_changes_nothing(model_folder: Path, kind: str, dtype: torch.dtype) -> None:
    model = models.load(str(model_folder), dtype=dtype, device=torch.device("cpu"))
    before = logits(model)
    adapter.attach(model, wanted(kind), seed=0)
    assert float((logits(model) - before).abs().max()) <= (1e-5 if dtype == torch.float32 else 0)


@KIND
def test_losses_and_gradients_are_pefts(model: Any, batches: list[Any], kind: str, measured: Any) -> None:
    ours = adapted(model, kind)
    theirs = by_peft(ours)
    assert float((logits(ours) - logits(theirs)).abs().max()) < 1e-4
    numbers, gradients = oracle.updated(ours, batches, loss.likelihood)
    wanted_numbers, wanted_gradients = oracle.updated(theirs, batches, loss.likelihood)
    assert numbers["loss"] == pytest.approx(wanted_numbers["loss"], rel=1e-6)
    assert measured(f"gradient of {kind} beside PEFT's", oracle.distance(gradients, wanted_gradients)) < 1e-4
    assert all("lora_" in name for name in gradients), "and nothing of the base has one"
    assert any("lora_magnitude" in name for name in gradients) == ("DoRA" in kind)


def test_what_is_disabled_mixed_or_dropped_is_pefts_own(model: Any) -> None:
    base = logits(model)
    ours = adapted(model, "DoRA", lora_dropout=0.5)
    theirs = by_peft(ours)
    for each in (ours, theirs):
        each.train()
        torch.manual_seed(0)
        each.dropped = logits(each)
    assert torch.equal(ours.dropped, theirs.dropped)
    ours.eval()
    assert not torch.allclose(logits(ours), ours.dropped)
    for module in ours.modules():
        if isinstance(module, lowrank.Linear):
            module.enable_adapters(False)
    assert torch.equal(logits(ours), base)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_dora_in_a_few_lines(bias: bool, rslora: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(7, 5, bias=bias)
    weight_OD, bias_O = plain.weight.detach().clone(), plain.bias.detach().clone() if bias else 0.0
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_dora=True, use_rslora=rslora)
    layer = inject_adapter_in_model(config, nn.Sequential(plain))[0]
    lowrank.adopt(layer)
    a_rD, b_Or = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    magnitude_O = layer.lora_magnitude_vector["default"].weight
    assert torch.allclose(magnitude_O, weight_OD.norm(dim=1)), "|W| by rows, so that nothing changes at first"
    with torch.no_grad():
        b_Or.copy_(torch.randn(5, 4))
        magnitude_O.mul_(torch.rand(5) + 0.5)
    x_TD = torch.randn(11, 7, requires_grad=True)

    def few_lines() -> torch.Tensor:
        scale = 6 / math.sqrt(4) if rslora else 6 / 4
        direction_OD = weight_OD + scale * b_Or @ a_rD
        made: torch.Tensor = (
            x_TD @ (magnitude_O[:, None] * direction_OD / direction_OD.norm(dim=1, keepdim=True).detach()).T + bias_O
        )
        return made

    inputs, target = (x_TD, a_rD, b_Or, magnitude_O), torch.randn(11, 5)
    found = torch.autograd.grad((layer(x_TD) * target).sum(), inputs)
    expected = torch.autograd.grad((few_lines() * target).sum(), inputs)
    assert torch.allclose(layer(x_TD), few_lines(), atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(x_TD @ lowrank.merged(layer).T + bias_O, few_lines(), atol=1e-5)


@pytest.mark.parametrize(("r", "rslora", "scale"), [(4, False, 2.0), (16, False, 0.5), (4, True, 4.0), (16, True, 2.0)])
def test_the_scale(model: Any, r: int, rslora: bool, scale: float) -> None:
    adapter.attach(model, Adapter(r=r, lora_alpha=8, use_rslora=rslora), seed=0)
    assert model.model.layers[0].mlp.up_proj.scaling == {"default": scale}


# As in test_decoder_layers.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", ["LoRA", "DoRA + rsLoRA"])
def test_compiled_and_recomputed_layers_train_the_same(model: Any, batches: list[Any], kind: str) -> None:
    plain = adapted(model, kind)
    changed = deepcopy(plain)
    layers.prepare(changed, compiled=True, recomputed=True, backend="aot_eager")
    _, gradients = oracle.updated(plain, batches, loss.likelihood)
    _, others = oracle.updated(changed, batches, loss.likelihood)
    assert oracle.distance(others, gradients) < 1e-4


@KIND
@pytest.mark.parametrize("make_cache", [None, Pages], ids=["slots", "pages"])
def test_the_engine_samples_the_live_adapter(model: Any, tokenizer: Any, kind: str, make_cache: Any) -> None:
    problems = arithmetic.problems("train", 3, min_steps=2, max_steps=6, seed=1)

    def sampled(of: Any) -> list[Any]:
        engine = Engine(tokenizer, Sampling(max_tokens=24), seed=0, make_cache=make_cache)
        engine.follow(of, 0)
        return [trace.token_ids for group in engine.sample(problems, 2) for trace in group]

    base = sampled(model)
    live = sampled(adapted(model, kind))
    adapter.merge(model)
    assert live == sampled(model)
    assert live != base


@KIND
def test_on_a_cpu_the_sampler_reads_an_adapted_layer_as_one(model: Any, kind: str) -> None:
    base = logits(model)
    live = logits(adapted(model, kind))
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        with prepacked(model):
            assert ("forward" in vars(layer), "forward" in vars(layer.base_layer)) == (True, False), "no second copy"
            assert float((logits(model) - live).abs().max()) < 1e-4
            assert not torch.equal(logits(model), live)
        assert torch.equal(logits(model), live)
        for module in model.modules():
            if isinstance(module, lowrank.Linear):
                module.enable_adapters(False)
        with prepacked(model):
            assert torch.allclose(logits(model), base, atol=1e-4)


# ---- Merging --------------------------------------------------------------------------------------------------------


@KIND
def test_merged_says_what_the_adapter_says_and_every_bit_comes_back(model: Any, kind: str) -> None:
    adapted(model, kind)
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    live = logits(model)
    with adapter.merged(model):
        assert float((logits(model) - live).abs().max()) < 1e-4
        weight = model.model.layers[0].mlp.up_proj.base_layer.weight
        read = weight.detach().clone()
        assert not torch.equal(read, before["model.layers.0.mlp.up_proj.base_layer.weight"])
    assert torch.equal(logits(model), live)
    for name, held in model.state_dict().items():
        assert torch.equal(held, before[name]), name


def test_the_base_comes_back_after_an_error_too(model: Any) -> None:
    live = logits(adapted(model, "DoRA"))
    with pytest.raises(RuntimeError, match="no luck"), adapter.merged(model):
        raise RuntimeError("no luck")
    assert torch.equal(logits(model), live)


@PEFT_ITSELF
@KIND
def test_for_good_the_model_is_plain_again(model: Any, stock: Any, kind: str) -> None:
    names = list(model.state_dict())
    live = logits(adapted(model, kind))
    theirs = by_peft(model)
    for module in theirs.modules():
        if isinstance(module, lora.Linear):
            module.merge(safe_merge=True)
    adapter.merge(model)
    assert float((logits(model) - live).abs().max()) < 1e-4
    assert list(model.state_dict()) == names
    assert not adapter.is_adapted(model)
    assert all(weight.requires_grad for weight in model.parameters())
    of_peft = {name.replace(".base_layer", ""): weight for name, weight in theirs.named_parameters()}
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, of_peft[name], atol=1e-6), name
    adapter.attach(model, wanted(kind), seed=0)
    assert float((logits(model) - live).abs().max()) < 1e-4, "and can have another"


def test_bfloat16_is_rounded_once(model_folder: Path) -> None:
    model = models.load(str(model_folder), dtype=torch.bfloat16, device=torch.device("cpu"))
    layer = adapted(model, "DoRA").model.layers[1].mlp.down_proj
    whole = (
        layer.base_layer.weight.double()
        + 2 * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    )
    whole *= (layer.lora_magnitude_vector["default"].weight.double() / whole.norm(dim=1))[:, None]
    nearest = whole.bfloat16()
    assert (lowrank.merged(layer) != nearest).float().mean() < 1e-3, "but for ties within float32's rounding"


# ---- Folders --------------------------------------------------------------------------------------------------------


@PEFT_ITSELF
@KIND
def test_peft_reads_what_we_write(model: Any, stock: Any, tmp_path: Path, kind: str) -> None:
    live = logits(adapted(model, kind))
    adapter.write(tmp_path, model)
    theirs = PeftModel.from_pretrained(stock, tmp_path)
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=IDS).logits, live, atol=1e-4)
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert Path(config["base_model_name_or_path"]).is_absolute()


@PEFT_ITSELF
@KIND
def test_a_folder_of_pefts_is_read_as_the_merged_model(
    model_folder: Path, stock: Any, tmp_path: Path, kind: str
) -> None:
    asked = wanted(kind, target_modules=("q_proj", "down_proj"))
    config = LoraConfig(**{**asked.model_dump(), "target_modules": list(asked.target_modules)}, task_type="CAUSAL_LM")
    theirs = stirred(get_peft_model(stock, config))
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
    ours = models.load(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    assert not adapter.is_adapted(ours)
    assert torch.allclose(logits(ours), expected, atol=1e-4)


def test_the_same_seed_makes_the_same_adapter_and_leaves_the_generator_alone(model_folder: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        one = models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))
        state = torch.get_rng_state()
        adapter.attach(one, wanted("LoRA"), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(torch.cat([weight.detach().flatten() for weight in adapter.stored(one).values()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# ---- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_what_cannot_be_adapted_is_said(model: Any) -> None:
    with pytest.raises(ValueError, match="not found in the base model"):
        adapter.attach(deepcopy(model), Adapter(target_modules=("nothing",)), seed=0)
    with pytest.raises(ValueError, match=r"reaches a Embedding, and only nn.Linear layers are adapted here"):
        adapter.attach(deepcopy(model), Adapter(target_modules=("embed_tokens",)), seed=0)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_tied_head_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="names the output head, whose weight is the embedding's too: leave it out"):
        adapter.attach(model, Adapter(target_modules=("lm_head",)), seed=0)


def test_another_adapters_weights_are_refused(model: Any, model_folder: Path, tmp_path: Path) -> None:
    adapter.write(tmp_path, adapted(model, "LoRA"))
    other = models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))
    adapter.attach(other, wanted("LoRA", r=2), seed=0)
    with pytest.raises(
        ValueError, match=r"holds an adapter of another kind, rank or model: .* Set model.adapter as it was"
    ):
        adapter.take(other, tmp_path)


# ---- Training -------------------------------------------------------------------------------------------------------


SFT = SftSettings(
    max_steps=6,
    learning_rate=2e-2,
    warmup_steps=1,
    max_length=128,
    per_device_train_batch_size=2,
    save_steps=2,
    eval_steps=2,
)


class Stage:
    """A stage in a run's folder, each attempt in a process's worth of fresh objects."""

    def __init__(
        self, folder: Path, model_folder: Path, tokenizer: Any, kind: str, dtype: torch.dtype, optim: str
    ) -> None:
        folder.mkdir()
        self.folder, self.model_folder, self.tokenizer = folder, model_folder, tokenizer
        self.kind, self.dtype, self.settings = kind, dtype, SFT.model_copy(update={"optim": optim})

    def attempt(self, stop_after: int | None = None) -> fit.Fitted:
        run = Run(self.folder, {"recipe": "test", "preset": "test"})
        problems = arithmetic.problems("train", 24, min_steps=2, max_steps=4, seed=0)
        examples = [Example(p.prompt, arithmetic.traces(p, 1, recheck=0.2, seed=0)[0], id=p.id) for p in problems]
        feed = source.Packed(source.supervised(self.tokenizer, examples, SFT)[0], SFT, seed=3)
        whole = feed.step

        def step(model: Any, taken: int) -> source.Step:
            if taken + 1 == stop_after:
                run.stop_requested = "SIGTERM"
            return whole(model, taken)

        feed.step = step  # type: ignore[method-assign]
        self.model = models.load(str(self.model_folder), dtype=self.dtype, device=torch.device("cpu"))
        adapter.attach(self.model, wanted(self.kind, lora_dropout=0.1), seed=0)
        validate = lambda model, step: {"eval_score": 0.0}  # noqa: E731
        return fit.fit(run, "stage", self.model, self.tokenizer, feed, loss.likelihood, self.settings, validate)


def bits(path: Path) -> tuple[bytes, bytes]:
    optimizer = torch.load(path / "state/optimizer.pt", weights_only=True)["state"]
    moments = b"".join(state[name].numpy().tobytes() for state in optimizer.values() for name in sorted(state))
    return (path / adapter.WEIGHTS).read_bytes(), moments


@pytest.mark.parametrize("optim", ["adamw", "exadam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["LoRA", "DoRA + rsLoRA"])
def test_a_stage_that_is_stopped_and_resumed_ends_with_the_same_bits(
    model_folder: Path, tokenizer: Any, tmp_path: Path, kind: str, dtype: torch.dtype, optim: str
) -> None:
    whole, stopped = (
        Stage(tmp_path / name, model_folder, tokenizer, kind, dtype, optim) for name in ("whole", "stopped")
    )
    fitted = whole.attempt()
    for stop in (1, 4):
        with pytest.raises(Preempted):
            stopped.attempt(stop_after=stop)
    resumed = stopped.attempt()
    assert bits(resumed.last) == bits(fitted.last)
    assert checkpoint.is_whole(resumed.last)
    # The adapter and its moments are all that was changed and all that is kept.
    base = models.load(str(model_folder), dtype=dtype, device=torch.device("cpu"))
    for name, weight in base.state_dict().items():
        held = whole.model.state_dict()
        assert torch.equal(
            weight, held[name if name in held else name.replace("_proj.weight", "_proj.base_layer.weight")]
        )
    saved = load_file(fitted.last / adapter.WEIGHTS)
    assert len(saved) == len(adapter.stored(whole.model)) > 0
    assert not (fitted.last / "model.safetensors").exists()
    assert len(torch.load(fitted.last / "state/optimizer.pt")["state"]) == len(saved)
    trained = [name for name, weight in saved.items() if "lora_B" in name and weight.any()]
    assert len(trained) == 14
    merged = models.load(str(fitted.last), dtype=dtype, device=torch.device("cpu"))
    assert float((logits(merged) - logits(whole.model)).abs().max()) < (1e-4 if dtype == torch.float32 else 0.3)


def test_the_snapshot_is_a_copy(model: Any) -> None:
    adapted(model, "DoRA")
    taken = shard.whole_weights(model, shard.HostMemory(), fit.ALONE)
    before = {name: weight.clone() for name, weight in taken.items()}
    stirred(model)
    assert all(torch.equal(taken[name], before[name]) for name in taken)
