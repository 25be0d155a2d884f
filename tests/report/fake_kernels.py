"""Records of kernels as the grader leaves them: real names, invented numbers."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sqlite3
from pathlib import Path
from typing import Any

REFERENCE = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x, y):
        return torch.softmax(x, dim=-1) @ y


def get_inputs():
    return [torch.randn(512, 512), torch.randn(512, 512)]


def get_init_inputs():
    return []
"""
CANDIDATE = REFERENCE.replace(
    "class Model(nn.Module):\n    def forward(self, x, y):\n        return torch.softmax(x, dim=-1) @ y\n",
    "class ModelNew(nn.Module):\n    def forward(self, x, y):\n"
    "        top = x.amax(-1, keepdim=True)\n        weights = (x - top).exp_()\n"
    "        return (weights @ y).div_(weights.sum(-1, keepdim=True))\n",
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def timing(ratio: float = 1.84, *, rounds: int = 160, noise: float = 0.02, seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    reference = [1.2e-3 * math.exp(rng.gauss(0, noise)) for _ in range(rounds)]
    candidate = [one / ratio * math.exp(rng.gauss(0, noise)) for one in reference]
    logs = [math.log(a / b) for a, b in zip(reference, candidate, strict=True)]
    buckets = [math.exp(sum(logs[i : i + 10]) / 10) for i in range(0, rounds, 10)]
    middle = sorted(buckets)[len(buckets) // 2]
    return {
        "reference_s": reference,
        "candidate_s": candidate,
        "reference_first": [rng.random() < 0.5 for _ in range(rounds)],
        "warm_up_s": [[4.1e-3, 9.7e-3], [1.3e-3, 0.8e-3]],
        "overhead_s": [2.1e-5] * 20,
        "reference_cpu_s": [one * 0.99 for one in reference],
        "candidate_cpu_s": [one * 0.98 for one in candidate],
        "reference_between_s": [1.1e-5] * rounds,
        "candidate_between_s": [1.2e-5] * rounds,
        "bucket_means": buckets,
        "ratio": middle,
        "interval": [sorted(buckets)[1], sorted(buckets)[-2]],
        "speedup": math.floor(middle * 100) / 100,
        "variance": 0.0002,
        "stopped": "precise",
        "clock": "wall",
        "cache": "warm",
        "second": "cpu",
        "budget_s": 10.0,
        "spent_s": 1.7,
        "rules": {"bucket_rounds": 10, "buckets": 8, "level": 0.99, "gate": 0.005, "widest": 0.05},
        "findings": [],
        "again": None,
    }


def environment(code: str = CANDIDATE) -> dict[str, Any]:
    return {
        "hardware": {"cpu": "Fake CPU 9000", "cores": 2, "memory_gb": 16.0, "gpu": None},
        "compiler": "g++ 12.2.0 -O3",
        "versions": {"postgrad": "0.1.0 (abc1234)", "python": "3.11.2", "torch": "2.13.0"},
        "seeds": {"values": 12345},
        "task_sha256": sha256(REFERENCE),
        "code_sha256": sha256(code),
        "created": "2026-11-23T17:00:00Z",
        "load": 0.7,
    }


def finding(
    reason: str, evidence: str = "seen at 3 of 4 seeds", where: str = "", means: str | None = None
) -> dict[str, Any]:
    return {"reason": reason, "evidence": evidence, "where": where, "means": means}


def verdict(status: str = "accepted", task: str = "softmax_matmul", **other: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "task": task,
        "status": status,
        "speedup": 1.84,
        "interval": [1.81, 1.87],
        "findings": [],
        "timing": timing(),
        "environment": environment(),
        "labels": {"backend": "torch", "baseline": "eager"},
    }
    if status == "suspicious":
        found["findings"] = [finding("T17_TIMES_ITSELF", "time.perf_counter() is read", "line 7")]
    if status == "rejected":
        found |= {"speedup": None, "interval": None, "timing": None}
        found["findings"] = [
            finding(
                "C02_STALE_ADDRESS", "the output of seed 2 is that of seed 1: largest difference 0.0", "input 0, seed 2"
            ),
            finding("S05_PARTIAL_WORK", "rows 256 to 511 hold the poison", "index (256, 0)"),
        ]
    if status == "unchecked":
        found |= {"speedup": None, "interval": None}
        found["findings"] = [finding("T20_UNSTABLE", "variance of the means 0.0310 (at most 0.005)")]
    return {**found, **other}


def record(status: str = "accepted", task: str = "softmax_matmul", **other: Any) -> dict[str, Any]:
    """As it lies in a file, with everything that may stand beside the verdict."""
    return {
        "verdict": verdict(status, task, **other),
        "signature": {"algorithm": "HMAC-SHA256", "whole": "0" * 64, "fields": {}},
        "reference": REFERENCE,
        "candidate": CANDIDATE,
        "baselines": {
            "eager": timing(1.84),
            "compile": timing(1.31, seed=1),
            "reduce-overhead": timing(1.22, seed=2),
        },
        "roofline": {"bound_s": 2.1e-4, "bytes": 3 * 512 * 512 * 4, "operations": 2 * 512**3},
        "techniques": ["operation_fusion", "memory_access"],
    }


def audit(n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    found = []
    for i in range(n):
        status = rng.choices(["accepted", "rejected", "suspicious", "unchecked"], [5, 3, 1, 1])[0]
        speedup = round(math.exp(rng.gauss(0.3, 0.5)), 2)
        other: dict[str, Any] = {}
        if status in ("accepted", "suspicious"):
            other = {
                "speedup": speedup,
                "interval": [speedup * 0.98, speedup * 1.02],
                "timing": timing(speedup, rounds=80, seed=i),
            }
        one = record(status, f"1-{i:03}", **other)
        one["baselines"] = {
            name: timing(speedup * by, rounds=80, seed=i) for name, by in (("compile", 0.8), ("native", 0.7))
        }
        one["published"] = {"score_default": round(speedup * math.exp(rng.gauss(0.4, 0.4)), 2)}
        one["degenerate"] = "constant output" if i % 9 == 0 else ""
        found.append(one)
    return found


ATTEMPT = """CREATE TABLE attempt (
    task TEXT NOT NULL, environment TEXT NOT NULL, step INTEGER NOT NULL, draw INTEGER NOT NULL, sample INTEGER NOT NULL,
    sampler TEXT NOT NULL, parents TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, hash TEXT, time REAL NOT NULL)"""
CODE = """CREATE TABLE code (
    task TEXT NOT NULL, environment TEXT NOT NULL, hash TEXT NOT NULL, backend TEXT NOT NULL, code TEXT NOT NULL,
    status TEXT NOT NULL, score REAL, reason TEXT NOT NULL, tags TEXT NOT NULL, record TEXT,
    step INTEGER NOT NULL, draw INTEGER NOT NULL, sample INTEGER NOT NULL, time REAL NOT NULL)"""


def write_search(folder: Path, *, rounds: int = 12, finished: bool = True, text: str = "", seed: int = 0) -> Path:
    """A search that gets better; `text` is put wherever a model's text can stand."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    where = ("softmax_matmul" + text, "Fake CPU 9000, torch 2.13.0" + text)
    database = sqlite3.connect(folder / "archive.sqlite")
    database.execute(ATTEMPT)
    database.execute(CODE)
    known: list[tuple[float, str]] = [(1.0, sha256(REFERENCE))]
    best: tuple[float, str] | None = None
    for step in range(1, rounds + 1):
        for draw in range(4):
            parents = [name for _, name in sorted(rng.sample(known, min(2, len(known))))]
            place, told = (step, draw, 0), json.dumps(parents)
            if rng.random() < 0.1:
                database.execute(
                    "INSERT INTO attempt VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (*where, *place, "model-x", told, "no_code", "no code block" + text, None, 0.0),
                )
                continue
            code = CANDIDATE + f"# {step}.{draw}\n" + text
            name = sha256(code)
            status = rng.choices(["accepted", "rejected", "unchecked"], [6, 3, 1])[0]
            score = round(1 + step * 0.08 + rng.gauss(0, 0.15), 2) if status == "accepted" else None
            reason = {"accepted": "", "rejected": "C02_STALE_ADDRESS; S05_PARTIAL_WORK", "unchecked": "T20_UNSTABLE"}[
                status
            ]
            tags = json.dumps(
                [*rng.sample(["operation_fusion", "memory_access", "warp_level"], 2), *([text] if text else [])]
            )
            signed = {
                **record(status),
                "verdict": verdict(status, speedup=score, interval=None, environment=environment(code)),
            }
            database.execute(
                "INSERT INTO attempt VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (*where, *place, "model-x", told, "judged", "", name, 0.0),
            )
            database.execute(
                "INSERT INTO code VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (*where, name, "torch", code, status, score, reason + text, tags, json.dumps(signed), *place, 0.0),
            )
            if score is not None:
                known.append((score, name))
                best = max(best or (0.0, ""), (score, name))
    database.commit()
    database.close()
    settings = {"evaluations": 48, "answers": 60, "strategy": "buckets", "seed": 0, "exemplars": 2, "prompts": 4}
    subject = {"task": where[0], "reference": REFERENCE + text, "backend": "torch", "environment": where[1]}
    begun = {"subject": subject, "settings": settings, "sampler": "model-x" + text, "seeds": []}
    (folder / "search.json").write_text(json.dumps(begun), encoding="utf-8")
    if finished and best:
        finalist = {
            "hash": best[1],
            "searched": best[0],
            "status": "accepted",
            "speedup": best[0] - 0.04,
            "interval": [best[0] - 0.07, best[0] - 0.01],
            "reasons": [],
        }
        other = {
            **finalist,
            "hash": known[1][1],
            "status": "unchecked",
            "speedup": None,
            "interval": None,
            "reasons": ["T20_UNSTABLE" + text],
        }
        cost = {"tokens": 1_234_567, "dollars": 3.21}
        summary = {
            "task": where[0],
            "settings": settings,
            "ended": "all 48 evaluations are done" + text,
            "finalists": [finalist, other],
            "best": finalist,
            "cost": cost,
        }
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
