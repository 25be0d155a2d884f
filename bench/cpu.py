"""Training and sampling on one CPU thread, beside TRL and transformers: python -m bench.cpu [--rounds 3] [ROW ...]

Peer and we run in turns in one process, on the same weights, documents, prompts and number type (float32), and each row
first proves that both compute the same thing. Times are CPU-seconds of the process, which hold on a busy machine; the
ratio is of the best rounds, medians stand beside. Prints one JSON line a row and writes docs/results/bench-cpu.json.

Model: Qwen3 of 10.5 million parameters (hidden 256, 8 layers, 8 / 4 heads of 32, MLP 768, 16,384 tied tokens), random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from postgrad import attention
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict
from postgrad.run import commit, hardware, write_json
from postgrad.sample.engine import Engine, Sampling
from postgrad.train import adapter, advantage, optim, reward, source
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.fit import update
from postgrad.train.loss import likelihood, policy
from postgrad.train.settings import Adapter, GrpoSettings, RewardSettings, SftSettings

VOCABULARY, ROW, ROWS, STEPS = 16_384, 512, 4, 4
PROMPT, NEW = 48, 128
PLAIN: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
"""What TRL's trainers are told besides the work: float32 on a CPU, and nothing that takes time and is not training."""


@dataclass(frozen=True, slots=True)
class Measured:
    ours: list[float]
    peer: list[float]
    """Costs, or rates where `higher` is set: one number a round."""
    higher: bool
    twin: float
    """How far the two are apart where they must agree."""


def model(implementation: str) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        intermediate_size=768,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    config._attn_implementation = implementation
    return Qwen3ForCausalLM(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    # Names that are no prefix of a word: the tokenizer would find special tokens inside words.
    words = ["<pad>", "<unk>", "<eos>", *(f"t{index}" for index in range(3, VOCABULARY))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{{ messages[-1]['content'] }}"
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", chat_template=template)


def documents() -> list[list[int]]:
    """400 of log-normal length, median 152."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(152), 0.7, 400)), 8, ROW).astype(int)
    return [[int(token) for token in rng.integers(5, VOCABULARY, length)] for length in lengths]


class Clock(TrainerCallback):
    """CPU-seconds of each optimizer step of a transformers Trainer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.began)


# ---- Supervised fine-tuning -----------------------------------------------------------------------------------------


def sft(strategy: str, rounds: int, wanted: Adapter | None = None) -> Measured:
    """CPU-seconds for 1,000 trained tokens: 4 rows of 512 tokens a step, AdamW, clipping; of all weights, or of an adapter by PEFT."""
    by_peft = None if wanted is None else peft.LoraConfig(**wanted.model_dump(), task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        peer = trl.SFTTrainer(
            model=model("sdpa"),
            args=trl.SFTConfig(
                output_dir=folder,
                packing=True,
                packing_strategy=strategy,
                max_length=ROW,
                per_device_train_batch_size=ROWS,
                max_steps=STEPS,
                learning_rate=1e-4,
                **PLAIN,
            ),
            train_dataset=Dataset.from_dict({"input_ids": documents()}),
            processing_class=tokenizer(),
            peft_config=by_peft,
        )
        first = next(iter(peer.get_train_dataloader()))
        ours = model(attention.NAME)
        if wanted is not None:
            adapter.attach(ours, wanted, seed=0)
            alike(ours, peer.model)
        theirs = float(peer.compute_loss(peer.model, dict(first)).detach())
        same = from_peer(first)
        twin = abs(float(likelihood(ours, same).total.detach()) / same.count - theirs) / theirs
        trained = [int((batch["labels"] != -100).sum()) for batch in islice(peer.get_train_dataloader(), STEPS)]
        clock = Clock()
        peer.add_callback(clock)
        settings = SftSettings(max_steps=10_000, learning_rate=1e-4, max_length=ROW, per_device_train_batch_size=ROWS)
        packed = source.Packed(
            [
                Document(str(i), tuple(d), np.array([0] + [1] * (len(d) - 1), np.float32))
                for i, d in enumerate(documents())
            ],
            settings,
            seed=0,
        )
        optimizer = optim.adamw(ours, settings)
        costs, peer_costs = [], []
        for round_ in range(rounds):
            clock.seconds.clear()
            peer.train()
            peer_costs.append(1000 * min(s / n for s, n in zip(clock.seconds, trained, strict=True)))
            steps = []
            for step in range(STEPS):
                batches = packed.step(ours, round_ * STEPS + step).batches
                began = time.process_time()
                update(ours, batches, likelihood, optimizer, 1e-4, 1.0, step)
                steps.append((time.process_time() - began) / sum(len(batch.targets_K) for batch in batches))
            costs.append(1000 * min(steps))
    return Measured(costs, peer_costs, higher=False, twin=twin)


def alike(ours: Any, peer: Any) -> None:
    """Adapters that do something, the same on both sides."""
    named = dict(peer.named_parameters())
    with torch.no_grad():
        for name, weight in adapter.stored(ours).items():
            weight.add_(0.05 * torch.randn_like(weight))
            named[f"base_model.model.{name}"].copy_(weight)


def islice(batches: Any, count: int) -> Iterator[Any]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


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


# ---- Sampling -------------------------------------------------------------------------------------------------------


def problems(count: int) -> list[Problem]:
    rng = np.random.default_rng(1)
    texts = [" ".join(f"t{token}" for token in rng.integers(5, VOCABULARY, PROMPT)) for _ in range(count)]
    return [Problem(str(index), (Message("user", text),), "1") for index, text in enumerate(texts)]


def rollout(prompts: int, group: int, batch: int, stops: list[int], rounds: int) -> Measured:
    """New tokens for a CPU-second. `stops` end a sequence, so their share of the vocabulary sets the mean length."""
    words, asked = tokenizer(), problems(prompts)
    ours, theirs = model(attention.NAME), model("sdpa")
    for one in (ours, theirs):
        one.generation_config.eos_token_id = stops or None
    ids = torch.tensor([words(p.prompt[0].content)["input_ids"] for p in asked]).repeat_interleave(group, 0)
    engine = Engine(words, Sampling(max_tokens=NEW, slots=batch), seed=0)

    def generate(chunk: torch.Tensor, **how: Any) -> Any:
        with torch.no_grad():
            return theirs.generate(chunk, attention_mask=torch.ones_like(chunk), pad_token_id=0, **how)

    greedy = Engine(words, Sampling(max_tokens=32, temperature=0), seed=0)
    greedy.follow(ours, 0)
    expected = generate(ids[::group], max_new_tokens=32, do_sample=False)[:, PROMPT:].tolist()
    found = [list(traces[0].token_ids) for traces in greedy.sample(asked, 1)]
    twin = statistics.fmean(a != b[: len(a)] for a, b in zip(found, expected, strict=True))
    rates, peer_rates = [], []
    for round_ in range(rounds):
        began, made = time.process_time(), 0
        for chunk in ids.split(batch):
            out = generate(chunk, max_new_tokens=NEW, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)[:, PROMPT:]
            ended = torch.isin(out, torch.tensor(stops or [-1])).int()
            made += int(((ended.cumsum(1) - ended) == 0).sum())
        peer_rates.append(made / (time.process_time() - began))
        engine.follow(ours, round_)
        began = time.process_time()
        traces = engine.sample(asked, group)
        rates.append(sum(len(t.token_ids) for row in traces for t in row) / (time.process_time() - began))
    return Measured(rates, peer_rates, higher=True, twin=twin)


# ---- GRPO -----------------------------------------------------------------------------------------------------------


def coin(_: Problem, trace: Trace) -> Verdict:
    """A verdict that costs nothing and differs within a group."""
    right = sum(trace.token_ids) % 2 == 0
    return Verdict(Status.CORRECT if right else Status.WRONG, float(right))


def grpo(prompts: int, rounds: int) -> Measured:
    """CPU-seconds a step: `prompts` x 8 completions of 128 tokens, sampled and trained on once, no KL."""
    words, asked = tokenizer(), problems(prompts)
    with tempfile.TemporaryDirectory() as folder:
        peer = trl.GRPOTrainer(
            model=model("sdpa"),
            reward_funcs=lambda completion_ids, **_: [float(sum(ids) % 2) for ids in completion_ids],
            args=trl.GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=8 * prompts,
                num_generations=8,
                max_completion_length=NEW,
                max_steps=2,
                learning_rate=1e-6,
                beta=0.0,
                **PLAIN,
            ),
            train_dataset=Dataset.from_dict({"prompt": [problem.prompt[0].content for problem in asked] * 8}),
            processing_class=words,
        )
        clock = Clock()
        peer.add_callback(clock)
        ours = model(attention.NAME)
        ours.generation_config.eos_token_id = None
        settings = GrpoSettings(
            max_steps=10_000,
            learning_rate=1e-6,
            prompts_per_step=prompts,
            num_generations=8,
            per_device_train_batch_size=8,
            max_completion_length=NEW,
            rewards=RewardSettings(accuracy=1.0, max_length=NEW),
        )
        rollouts = source.Rollouts(
            asked,
            Engine(words, Sampling(max_tokens=NEW), seed=0),
            coin,
            reward.from_settings(settings.rewards, NEW),
            advantage.group_std,
            settings,
            words,
            seed=0,
        )
        objective = policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, temperature=1.0)
        optimizer = optim.adamw(ours, settings)
        twin = agreement(peer, rollouts, ours)
        costs, peer_costs = [], []
        for round_ in range(rounds):
            clock.seconds.clear()
            peer.train()
            peer_costs.append(min(clock.seconds))
            steps = []
            for step in range(2):
                began = time.process_time()
                feed = rollouts.step(ours, 2 * round_ + step + 1)
                update(ours, feed.batches, objective, optimizer, 1e-6, 1.0, step)
                steps.append(time.process_time() - began)
            costs.append(min(steps))
    return Measured(costs, peer_costs, higher=False, twin=twin)


def agreement(peer: Any, rollouts: source.Rollouts, ours: Any) -> float:
    """The largest difference between TRL's and the engine's log-probability of one group's sampled tokens."""
    problem = rollouts.problems[0]
    rollouts.sampler.follow(ours, 0)
    traces = rollouts.sampler.sample([problem], 8)[0]
    graded = [Graded(problem, trace, coin(problem, trace)) for trace in traces]
    prompt = rollouts.tokenizer(problem.prompt[0].content)["input_ids"]
    whole = [t for t in (one.trace for one in graded) if len(t.token_ids) == NEW]
    ids = torch.tensor([[*prompt, *trace.token_ids] for trace in whole])
    with torch.no_grad():
        theirs, *_ = peer._get_per_token_logps_and_entropies(peer.model, ids, torch.ones_like(ids), NEW)
    return float((theirs - torch.tensor([trace.logprobs for trace in whole])).abs().max())


# ---- Rows -----------------------------------------------------------------------------------------------------------

STOPS = list(range(3, 3 + VOCABULARY // 48))
"""One token in 48 ends a sequence: geometric lengths, mean 48."""
LORA = Adapter(r=16, lora_alpha=32)
DORA = Adapter(r=16, lora_alpha=32, use_dora=True, use_rslora=True)
"""Of all linear layers but the head."""
ROWS_OF: dict[str, tuple[str, str, str, Callable[[int], Measured]]] = {
    "sft-cpu-bfd": ("packed SFT, 4 x 512 tokens", "CPU-s / 1k tokens", "TRL bfd", lambda r: sft("bfd", r)),
    "sft-cpu-wrapped": ("packed SFT, 4 x 512 tokens", "CPU-s / 1k tokens", "TRL wrapped", lambda r: sft("wrapped", r)),
    "lora-cpu": (
        "packed SFT of LoRA, 4 x 512 tokens",
        "CPU-s / 1k tokens",
        "PEFT + TRL",
        lambda r: sft("wrapped", r, LORA),
    ),
    "dora-cpu": (
        "packed SFT of DoRA with rsLoRA's scale, 4 x 512 tokens",
        "CPU-s / 1k tokens",
        "PEFT + TRL",
        lambda r: sft("wrapped", r, DORA),
    ),
    "grpo-cpu-8": ("GRPO step, 1 x 8 x 128 tokens", "CPU-s", "TRL", lambda r: grpo(1, r)),
    "grpo-cpu-32": ("GRPO step, 4 x 8 x 128 tokens", "CPU-s", "TRL", lambda r: grpo(4, r)),
    "rollout-cpu-8": (
        "8 x 128 new tokens",
        "tokens / CPU-s",
        "transformers.generate",
        lambda r: rollout(1, 8, 8, [], r),
    ),
    "rollout-cpu-fixed": (
        "32 x 128 new tokens",
        "tokens / CPU-s",
        "transformers.generate",
        lambda r: rollout(4, 8, 32, [], r),
    ),
    "rollout-cpu-variable": (
        "128 sequences, geometric length of mean 48, 32 at once",
        "tokens / CPU-s",
        "transformers.generate",
        lambda r: rollout(16, 8, 32, STOPS, r),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS_OF)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own; ours are errors in the tests
    transformers.logging.set_verbosity_error()
    rows = []
    for name in asked.rows or ROWS_OF:
        workload, unit, peer_name, measure = ROWS_OF[name]
        measured = measure(asked.rounds)
        if measured.twin > 1e-4:
            raise SystemExit(
                f"{name}: ours and the peer's differ by {measured.twin}: no time of the two can be compared"
            )
        best = max if measured.higher else min
        ours, peer = best(measured.ours), best(measured.peer)
        row = {
            "name": name,
            "workload": workload,
            "unit": unit,
            "ours": round(ours, 4),
            "peer": round(peer, 4),
            "peer_name": f"{peer_name} (trl {trl.__version__}, transformers {transformers.__version__})",
            "ratio": round(ours / peer if measured.higher else peer / ours, 3),
            "median_ours": round(statistics.median(measured.ours), 4),
            "median_peer": round(statistics.median(measured.peer), 4),
            "twin": measured.twin,
            "limit": None,
            "fraction_of_limit": None,
            "commit": commit(),
            "hardware": hardware()["cpu"] + ", one thread",
            "command": " ".join(["python -m bench.cpu", *sys.argv[1:]]),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    path = asked.results / "bench-cpu.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    measured_now = {row["name"] for row in rows}
    write_json(path, {"rows": [row for row in known if row["name"] not in measured_now] + rows})


if __name__ == "__main__":
    main()
