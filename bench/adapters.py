"""What an adapter's scale does over ranks: python -m bench.adapters [--seeds 1 2 3]

A Qwen3 of width 128 learns short chains of verbose arithmetic (400 steps of 1,024 tokens), and an adapter on it, of a fixed lora_alpha of
16, then learns long ones with many checks (100 steps, 10 of them warm-up, AdamW at 2e-3). Measured after that: the norm of what the
adapter adds to the weights, all layers together, and the loss on 300 problems of the validation split of the long ones. Thresholds were
written before the first run:

    B1a  rsLoRA's norm is about flat over ranks 4 to 128: the largest is at most twice the smallest
    B1b  plain LoRA's falls: at rank 128 it is at most half of what it is at rank 4
    B1c  rsLoRA's loss holds or improves: at rank 128 at most 0.01 nats above that at rank 4
    B1d  plain LoRA's does not improve: at rank 128 at least that at rank 4, less 0.01 nats

DoRA with rsLoRA's scale, with a row's length more to train, is beside them without a claim.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from bench import small
from postgrad.train import adapter, fit
from postgrad.train.settings import Adapter

WIDTH, ALPHA = 128, 16
RANKS = (4, 16, 64, 128)
KINDS: dict[str, dict[str, bool]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA + rsLoRA": {"use_dora": True, "use_rslora": True},
}


def study(seed: int) -> dict[str, Any]:
    base = small.made(WIDTH, seed)
    short = small.documents("train", 3000, steps=(2, 3), recheck=0.0, seed=seed)
    small.trained(base, short, small.settings(max_steps=400, warmup_steps=20, learning_rate=3e-3), seed)
    long = {
        split: small.documents(split, count, steps=(4, 6), recheck=0.45, seed=seed)
        for split, count in (("train", 3000), ("validation", 300))
    }
    asked = small.settings(max_steps=100, warmup_steps=10, learning_rate=2e-3)
    before = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    found: dict[str, Any] = {"loss before": unseen(base, long["validation"])}
    for kind, how in KINDS.items():
        norms, losses = [], []
        for rank in RANKS:
            learner = deepcopy(base)
            adapter.attach(learner, Adapter(r=rank, lora_alpha=ALPHA, **how), seed=seed)
            small.trained(learner, long["train"], asked, seed)
            losses.append(unseen(learner, long["validation"]))
            adapter.merge(learner)
            norms.append(moved(learner, before))
            print(f"seed {seed}  {kind:13}  rank {rank:3}  norm {norms[-1]:.3f}  loss {losses[-1]:.4f}", flush=True)
        found[kind] = {"ranks": RANKS, "norm": norms, "loss": losses}
    return found


def unseen(learner: Any, texts: Any) -> float:
    """Nats a token."""
    with torch.no_grad():
        return fit.mean_loss(learner, texts)


def moved(learner: Any, before: dict[str, torch.Tensor]) -> float:
    """Frobenius norm of the change of all weights together."""
    parts = [(weight.detach() - before[name]).norm() for name, weight in learner.named_parameters()]
    return float(torch.stack(parts).norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [study(seed) for seed in asked.seeds]

    def ends(kind: str, what: str) -> list[tuple[float, float]]:
        """At the lowest rank and at the highest, of each seed."""
        return [(one[kind][what][0], one[kind][what][-1]) for one in found]

    flat = [max(one["rsLoRA"]["norm"]) / min(one["rsLoRA"]["norm"]) for one in found]
    falls = [high / low for low, high in ends("LoRA", "norm")]
    holds = [high - low for low, high in ends("rsLoRA", "loss")]
    stays = [high - low for low, high in ends("LoRA", "loss")]
    claims = [
        small.claim("B1a", "rsLoRA: largest norm of the change over the smallest, ranks 4 to 128", flat, "<=", 2),
        small.claim("B1b", "LoRA: norm of the change at rank 128 over that at rank 4", falls, "<=", 0.5),
        small.claim("B1c", "rsLoRA: loss at rank 128 less that at rank 4, nats", holds, "<=", 0.01),
        small.claim("B1d", "LoRA: loss at rank 128 less that at rank 4, nats", stays, ">=", -0.01),
    ]
    small.record("adapters", asked.results, asked.seeds, found, claims)


if __name__ == "__main__":
    main()
