"""Supervised fine-tuning of packed documents: tokens a second and peak memory, beside TRL's trainer at its best setting.

TRL runs with packing_strategy="wrapped" (without a flash package its other strategy makes one dense mask of the whole batch) and
Liger's layers, once with float32 weights under autocast, which keeps small updates as we do, and once with bfloat16 weights.
An adapter's rows are the same work with PEFT's adapter on all linear layers but the head, the base in the number type of products; ours is
on the same base, and both start from the same adapter. The learning rate is 0: the optimizer does all its work, and every round starts from the weights that the twin compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from transformers.models.qwen3 import modeling_qwen3

from bench.gpu import limits
from bench.gpu.place import Place, tokenizer, tokens
from bench.gpu.row import Row, agree, relative
from postgrad.train import adapter, optim, source
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.fit import update
from postgrad.train.loss import likelihood
from postgrad.train.settings import Adapter, SftSettings

PLAIN: dict[str, Any] = {
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
    "learning_rate": 0.0,
}
"""What TRL's trainers are told besides the work: nothing that takes time and is not training."""
WATCHED = (
    "model.norm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.self_attn.k_norm.weight",
)
WATCHED_OF_ADAPTER = (
    "model.layers.0.self_attn.q_proj.lora_A.default.weight",
    "model.layers.0.mlp.down_proj.lora_B.default.weight",
    "model.layers.1.self_attn.v_proj.lora_B.default.weight",
)


@dataclass(frozen=True, slots=True)
class Work:
    shape: str
    rows: int
    length: int
    steps: int
    """In a round."""
    checkpointing: bool
    adapter: Adapter | None

    @classmethod
    def of(cls, place: Place, shape: str, wanted: Adapter | None, *, checkpointing: bool) -> Work:
        return cls(shape, 4, place.pick(4096, 64), place.pick(5, 2), checkpointing, wanted)

    @property
    def watched(self) -> tuple[str, ...]:
        """Whose gradients are compared: the last weights that a backward pass reaches, and the first."""
        return WATCHED if self.adapter is None else WATCHED_OF_ADAPTER


@dataclass(frozen=True, slots=True)
class Look:
    """What a side makes of one batch."""

    loss: float
    gradients: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Side:
    round: Callable[[], list[float]]
    """Trained tokens a second of each step."""
    look: Callable[[Any], Look]
    peak_gib: float | None
    """Of warm steps, optimizer state and all."""
    first: Any
    """A batch; of the peer, so that both can be asked of the same."""


def documents(longest: int, vocabulary: int) -> list[list[int]]:
    """400 of log-normal length; the median is 600 tokens where a row has 4,096."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(longest * 600 / 4096), 0.7, 400))
    return [tokens(rng, int(length), vocabulary) for length in np.clip(lengths, 8, longest)]


class Clock(TrainerCallback):
    """Seconds of each optimizer step of a transformers Trainer."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.place.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self.place.now() - self.began)


@contextmanager
def unpatched() -> Iterator[None]:
    """Liger replaces functions and classes of transformers' module, not of one model: ours must not find them there."""
    before = dict(vars(modeling_qwen3))
    try:
        yield
    finally:
        vars(modeling_qwen3).update(before)


@contextmanager
def trl_side(place: Place, work: Work, dtype: torch.dtype, texts: list[list[int]]) -> Iterator[Side]:
    held = place.held()
    with unpatched(), tempfile.TemporaryDirectory() as output:
        trainer = trl.SFTTrainer(
            model=place.peer(work.shape, dtype),
            args=trl.SFTConfig(
                output_dir=output,
                packing=True,
                packing_strategy="wrapped",
                max_length=work.length,
                per_device_train_batch_size=work.rows,
                max_steps=work.steps,
                bf16=place.dtype == torch.bfloat16,
                use_cpu=not place.on_gpu,
                use_liger_kernel=place.on_gpu,
                gradient_checkpointing=work.checkpointing,
                **PLAIN,
            ),
            train_dataset=Dataset.from_dict({"input_ids": texts}),
            processing_class=tokenizer(place.vocabulary),
            peft_config=None
            if work.adapter is None
            else LoraConfig(**work.adapter.model_dump(), task_type="CAUSAL_LM"),
        )
        stir(trainer.model)
        batches = list(islice(trainer.get_train_dataloader(), work.steps))
        trained = [int((batch["labels"] != -100).sum()) for batch in batches]
        clock = Clock(place)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)

        def round_() -> list[float]:
            clock.seconds.clear()
            trainer.train()
            return [count / seconds for count, seconds in zip(trained, clock.seconds, strict=True)]

        def look(batch: Any) -> Look:
            model = trainer.model
            inputs = {name: value.to(place.device) for name, value in batch.items()}
            with torch.autocast(place.device.type, torch.bfloat16, enabled=place.dtype == torch.bfloat16):
                loss = trainer.compute_loss(model, inputs)
            loss.backward()
            return looked(model, float(loss.detach()), work)

        try:
            # Liger's layers come with the first `train`, so nothing is compared before it.
            with place.peak(held) as peak:
                round_()
            yield Side(round_, look, peak["gib"], batches[0])
        finally:
            trainer.accelerator.free_memory()


@contextmanager
def our_side(place: Place, work: Work, texts: list[list[int]]) -> Iterator[Side]:
    held = place.held()
    settings = SftSettings(
        max_steps=10_000, learning_rate=1e-4, max_length=work.length, per_device_train_batch_size=work.rows
    )
    model = place.ours(work.shape, recomputed=work.checkpointing)
    if work.adapter is not None:
        adapter.attach(model, work.adapter, seed=0)
        stir(model)
    packed = source.Packed([document(str(index), ids) for index, ids in enumerate(texts)], settings, seed=0)
    optimizer = optim.adamw(model, settings)
    steps = [packed.step(model, step).batches for step in range(work.steps)]

    def step(batches: list[Batch]) -> float:
        return place.seconds(lambda: update(model, batches, likelihood, optimizer, 0.0, 1.0, 0))

    def round_() -> list[float]:
        return [sum(len(batch.targets_K) for batch in batches) / step(batches) for batches in steps]

    def look(batch: Any) -> Look:
        packed = batch.to(place.device)
        model.train()
        total = likelihood(model, packed).total / packed.count
        total.backward()
        model.eval()
        return looked(model, float(total.detach()), work)

    with place.peak(held) as peak:
        round_()
    yield Side(round_, look, peak["gib"], steps[0][0])


def stir(model: Any) -> None:
    """Where there is an adapter: as after some steps, and the same for all."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(named(model).items()):
            if "lora_A" in name or "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def named(model: Any) -> dict[str, torch.Tensor]:
    """By the names of the model that PEFT has wrapped."""
    return {name.removeprefix("base_model.model."): weight for name, weight in model.named_parameters()}


def looked(model: Any, loss: float, work: Work) -> Look:
    held = named(model)
    gradients = {name: held[name].grad.detach().float().cpu() for name in work.watched}
    model.zero_grad(set_to_none=True)
    return Look(loss, gradients)


def document(name: str, ids: list[int]) -> Document:
    return Document(name, tuple(ids), np.array([0] + [1] * (len(ids) - 1), np.float32))


def from_peer(batch: dict[str, torch.Tensor]) -> Batch:
    """TRL's collated rows as our documents: new ones begin where positions do, and at each row."""
    made = []
    positions = batch.get("position_ids")
    for row in range(len(batch["input_ids"])):
        ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
        starts = [0] if positions is None else [i for i, p in enumerate(positions[row].tolist()) if p == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            weights = np.array([0.0] + [float(label != -100) for label in labels[start + 1 : end]], np.float32)
            made.append(Document(f"{row}.{start}", tuple(ids[start:end]), weights))
    return pack(made, count=float(sum(document.weights.sum() for document in made)))


def twins(place: Place, ours: Look, peer: Look, name: str) -> dict[str, float]:
    apart = max(relative(gradient, peer.gradients[watched]) for watched, gradient in ours.gradients.items())
    return {
        f"loss, {name}": agree(place, "loss", abs(ours.loss - peer.loss) / peer.loss, bfloat16=5e-3, float32=1e-4),
        f"gradient, {name}": agree(place, "gradient", apart, bfloat16=0.15, float32=1e-3),
    }


def row(place: Place, shape: str, checkpointing: tuple[bool, ...], wanted: Adapter | None = None) -> Row:
    """Tokens a second. `checkpointing` is tried in this order: the next where we, or every peer, found no memory."""
    *others, last = checkpointing
    for on in others:
        with suppress(torch.cuda.OutOfMemoryError):
            made = _row(place, Work.of(place, shape, wanted, checkpointing=on))
            if any(not isinstance(numbers, str) for numbers in made.peers.values()):
                return made
        # Here, where no traceback holds the failed model any more.
        place.clear()
    return _row(place, Work.of(place, shape, wanted, checkpointing=last))


def _row(place: Place, work: Work) -> Row:
    suffix = " + Liger" if place.on_gpu else ""
    kinds = {f"TRL wrapped{suffix}, float32 weights": torch.float32}
    if work.adapter is not None:
        kinds = {f"PEFT + TRL wrapped{suffix}": place.dtype}
    elif place.dtype != torch.float32:
        kinds[f"TRL wrapped{suffix}, {str(place.dtype).removeprefix('torch.')} weights"] = place.dtype
    texts = documents(work.length, place.vocabulary)
    ours: list[float] = []
    peers: dict[str, Sequence[float] | str] = {}
    looks: dict[str, tuple[Batch, Look]] = {}
    peaks: dict[str, float | None] = {}
    twin: dict[str, float] = {}
    for _ in range(place.rounds):
        for name, dtype in kinds.items():
            if isinstance(peers.get(name), str):
                continue
            # Boundary: a peer that finds no memory is told of as such.
            try:
                with trl_side(place, work, dtype, texts) as side:
                    if name not in looks:
                        looks[name] = from_peer(side.first), side.look(side.first)
                    peers[name] = [*peers.get(name, ()), *side.round()]
                    peaks[name] = side.peak_gib
            except torch.cuda.OutOfMemoryError as error:
                peers[name] = f"out of memory: {str(error).splitlines()[0]}"
            place.clear()
        with our_side(place, work, texts) as side:
            if not twin:
                for name, (batch, look) in looks.items():
                    twin |= twins(place, side.look(batch), look, name)
            ours += side.round()
            peaks["ours"] = side.peak_gib
        place.clear()
    parameters = sum(weight.numel() for weight in _meta(place, work.shape).parameters())
    # A frozen weight needs no gradient of its own: two products of three, and the adapter's own are left out.
    flop = 6 if work.adapter is None else 4
    what = "" if work.adapter is None else f" of {'DoRA' if work.adapter.use_dora else 'LoRA'}, rank {work.adapter.r}"
    rate = limits.matmul(place)
    return Row(
        f"packed SFT{what}, Qwen3-{work.shape}, {work.rows} x {work.length} tokens"
        + (", activations recomputed" if work.checkpointing else ""),
        "tokens / s",
        higher=True,
        ours=ours,
        peers=peers,
        twin=twin,
        limit=rate / (flop * parameters),
        more={
            "limit_is": f"{flop} N FLOP a token at the measured rate of a matrix product",
            f"tflops_{flop}nd": flop * parameters * max(ours) / 1e12,
            "peak_gib": peaks,
        },
    )


def _meta(place: Place, shape: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(place.config(shape))
