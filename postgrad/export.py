"""What a run made, in the form that other tools read: a Hugging Face folder, or TRL's or verl's data and settings.

    hf     the checkpoint without its training state, after its hashes are verified
    peft   of a run with model.adapter: the adapter as PEFT's folder, and the model with it merged
    trl    sft.jsonl + sft.yaml (keys of SFTConfig), rl.jsonl + validation.jsonl + grpo.yaml (keys of GRPOConfig)
    verl   train.parquet + validation.parquet + sft.parquet + grpo.yaml (over verl's ppo_trainer.yaml)

Settings without a counterpart there stand as comments on top of the YAML file: nothing is left out in silence. The
reward functions are the other tool's: TRL gets the gold answer as a column, verl as reward_model.ground_truth.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from postgrad.config import read_yaml
from postgrad.records import Example, Message, Problem, read_jsonl

STAGES = ("rl", "sft")
"""The last stage first."""


def checkpoint(run: Path, stage: str = "best") -> Path:
    """The checkpoint that a stage ended with: its best, or its latest where it has named no best yet.

    `stage`: "sft", "rl", or "best" for the last stage that has one.
    """
    folder = run / "checkpoints"
    ran = [name for name in STAGES if (folder / name / "latest").is_file()]
    if not ran:
        raise ValueError(f"{run} has no checkpoint yet")
    if stage != "best" and stage not in ran:
        raise ValueError(f"{run} has no checkpoint of stage '{stage}'; it has those of {', '.join(ran)}")
    chosen = folder / (ran[0] if stage == "best" else stage)
    pointer = chosen / "best" if (chosen / "best").is_file() else chosen / "latest"
    return chosen / pointer.read_text(encoding="utf-8").strip()


def verify(folder: Path) -> None:
    """Raise ValueError unless every file of a checkpoint is there and is what its COMMIT.json says."""
    commit = folder / "COMMIT.json"
    if not commit.is_file():
        raise ValueError(f"{folder} is not a whole checkpoint: it has no COMMIT.json")
    for name, recorded in json.loads(commit.read_text())["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing, though COMMIT.json lists it: take another checkpoint")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != recorded["sha256"]:
            raise ValueError(f"{path} is damaged: its SHA-256 differs from COMMIT.json's; take another checkpoint")


def to_hugging_face(run: Path, stage: str, out: Path) -> Path:
    """Copy a checkpoint as a folder that `from_pretrained` loads. `stage`: "sft", "rl" or "best"."""
    source = checkpoint(run, stage)
    if (source / "adapter_config.json").is_file():
        raise ValueError(f"{source} is an adapter, no whole model: --to peft writes it and the merged model")
    verify(source)
    _fresh(out)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("state", "COMMIT.json"), dirs_exist_ok=True)
    return out


def to_peft(run: Path, stage: str, out: Path) -> str:
    """The adapter in out/adapter, the model with it merged in out/merged; returns how far apart the two are on eight prompts."""
    import torch

    from postgrad import chat
    from postgrad.attention import Packed
    from postgrad.train import adapter
    from postgrad.train import model as models

    source = checkpoint(run, stage)
    if not adapter.is_folder(source):
        raise ValueError(f"{source} is a whole model, no adapter: --to hf writes it")
    verify(source)
    # Before anything is written: a run without data has no prompts.
    prompts = [problem.prompt for problem in _problems(run, "validation")[:8]]
    _fresh(out)
    shutil.copytree(source, out / "adapter", ignore=shutil.ignore_patterns("state", "COMMIT.json"))
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[_config(run)["model"]["dtype"]]
    where, tokenizer = torch.device("cpu"), models.load_tokenizer(str(source))
    merged = models.load(str(source), dtype=dtype, device=where)
    merged.save_pretrained(out / "merged")
    tokenizer.save_pretrained(out / "merged")
    del merged
    live = models.load(adapter.base(source), dtype=dtype, device=where)
    adapter.load(live, source)
    merged = models.load(str(out / "merged"), dtype=dtype, device=where)
    apart = largest = 0.0
    for prompt in prompts:
        ids = torch.tensor([chat.prompt_ids(tokenizer, prompt)])
        with torch.no_grad():
            one, other = (
                of(input_ids=ids, layout=Packed([ids.shape[1]], where)).logits.float() for of in (live, merged)
            )
        apart, largest = max(apart, float((one - other).abs().max())), max(largest, float(one.abs().max()))
    return f"{len(prompts)} prompts: logits of adapter and merged model differ by at most {apart:.2g}; the largest is {largest:.3g}"


def to_trl(run: Path, out: Path) -> Path:
    """Rows and settings for TRL's SFTTrainer and GRPOTrainer."""
    config = _config(run)
    _fresh(out)
    if (run / "data" / "sft.jsonl").is_file() and config["sft"]:
        examples = list(read_jsonl(Example, run / "data" / "sft.jsonl"))
        _write_jsonl(out / "sft.jsonl", (_prompt_completion(example) for example in examples))
        settings, notes = trl_sft(config)
        if any(example.weight != 1 for example in examples):
            notes.append("rows have weights in the column `weight`; TRL's SFTTrainer does not use them")
        _write_yaml(out / "sft.yaml", settings, ["trl.SFTConfig(**settings) for sft.jsonl", *notes])
    for name in ("rl", "validation"):
        problems = _problems(run, name)
        _write_jsonl(out / f"{name}.jsonl", (_prompt_only(problem) for problem in problems if problem.gold is not None))
    settings, notes = trl_grpo(config)
    _write_yaml(out / "grpo.yaml", settings, ["trl.GRPOConfig(**settings) for rl.jsonl", *notes])
    return out


def to_verl(run: Path, out: Path) -> Path:
    """Parquet rows and a settings file for verl."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    config = _config(run)
    _fresh(out)
    for name, split in (("rl", "train"), ("validation", "validation"), ("test", "test")):
        checkable = [problem for problem in _problems(run, name) if problem.gold is not None]
        rows = [_verl_row(problem, split, i) for i, problem in enumerate(checkable)]
        if rows:
            parquet.write_table(pa.Table.from_pylist(rows), out / f"{split}.parquet")
    if (run / "data" / "sft.jsonl").is_file():
        examples = read_jsonl(Example, run / "data" / "sft.jsonl")
        rows = [{"messages": _chat([*example.prompt, Message("assistant", example.response)])} for example in examples]
        if rows:
            parquet.write_table(pa.Table.from_pylist(rows), out / "sft.parquet")
    settings, notes = verl_grpo(config)
    usage = "python -m verl.trainer.main_ppo --config-dir . --config-name grpo custom_reward_function.path=REWARD.py"
    _write_yaml(out / "grpo.yaml", settings, [usage, *notes])
    return out


# Settings of other tools


def trl_sft(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of trl.SFTConfig, and notes on what they cannot say."""
    sft = config["sft"]
    settings = {
        "output_dir": "sft",
        **_trl_optimization(sft, config),
        "gradient_accumulation_steps": sft["gradient_accumulation_steps"],
        "max_length": sft["max_length"],
        "packing": True,
        "packing_strategy": "bfd",
        "completion_only_loss": True,
    }
    return settings, [
        *_stop_note(sft),
        *_optim_note(sft),
        *_adapter_note(config),
        f"overlong={sft['overlong']}: TRL cuts a longer example instead",
    ]


def trl_grpo(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of trl.GRPOConfig, and notes on what they cannot say."""
    rl = config["rl"]
    same = (
        "num_generations",
        "num_iterations",
        "max_completion_length",
        "temperature",
        "top_p",
        "top_k",
        "epsilon",
        "epsilon_high",
        "beta",
        "loss_type",
        "scale_rewards",
        "mask_truncated_completions",
    )
    completions = rl["prompts_per_step"] * rl["num_generations"]
    settings = {
        "output_dir": "grpo",
        **_trl_optimization(rl, config),
        "gradient_accumulation_steps": completions // rl["per_device_train_batch_size"],
        **{name: rl[name] for name in same},
        "min_p": rl["min_p"] or None,
    }
    notes = [
        *_stop_note(rl),
        *_optim_note(rl),
        *_adapter_note(config),
        f"max_prompt_length={rl['max_prompt_length']}: TRL has no such limit",
        f"for one device: {completions} completions a step; with N devices divide gradient_accumulation_steps by N",
        *_reward_notes(rl),
        *_limit_note(rl),
    ]
    if rl["max_resample"]:
        notes.append(f"max_resample={rl['max_resample']}: TRL does not refill groups without variance")
    return settings, notes


def verl_grpo(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Keys of verl's ppo_trainer.yaml, and notes on what they cannot say."""
    rl = config["rl"]
    aggregation = {
        "grpo": "seq-mean-token-mean",
        "bnpo": "token-mean",
        "dapo": "token-mean",
        "dr_grpo": "seq-mean-token-sum-norm",
    }
    actor = {
        "ppo_mini_batch_size": rl["prompts_per_step"],
        "ppo_micro_batch_size_per_gpu": rl["per_device_train_batch_size"],
        "ppo_epochs": rl["num_iterations"],
        "clip_ratio_low": rl["epsilon"],
        "clip_ratio_high": rl["epsilon"] if rl["epsilon_high"] is None else rl["epsilon_high"],
        "loss_agg_mode": aggregation[rl["loss_type"]],
        "use_kl_loss": rl["beta"] > 0,
        "kl_loss_coef": rl["beta"],
        "kl_loss_type": "low_var_kl",
        "grad_clip": rl["max_grad_norm"],
        "optim": {
            "lr": rl["learning_rate"],
            "lr_warmup_steps": rl["warmup_steps"],
            "weight_decay": rl["weight_decay"],
            "min_lr_ratio": rl["min_lr_ratio"],
        },
    }
    rollout = {
        "name": "vllm",
        "n": rl["num_generations"],
        "temperature": rl["temperature"],
        "top_p": rl["top_p"],
        "top_k": rl["top_k"] or -1,
        "tensor_model_parallel_size": 1,
        "log_prob_micro_batch_size_per_gpu": rl["per_device_train_batch_size"],
    }
    model = {
        "path": config["model"]["path"] or "MODEL",
        "enable_gradient_checkpointing": bool(rl["gradient_checkpointing"]),
    }
    actor_rollout_ref = {"model": model, "actor": actor, "rollout": rollout}
    if rl["beta"] > 0:
        actor_rollout_ref["ref"] = {"log_prob_micro_batch_size_per_gpu": rl["per_device_train_batch_size"]}
    settings = {
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "defaults": ["ppo_trainer", "_self_"],
        "data": {
            "train_files": "train.parquet",
            "val_files": "validation.parquet",
            "train_batch_size": rl["prompts_per_step"],
            "max_prompt_length": rl["max_prompt_length"],
            "max_response_length": rl["max_completion_length"],
            "truncation": "error",
        },
        "actor_rollout_ref": actor_rollout_ref,
        "algorithm": {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": rl["scale_rewards"] == "group"},
        "trainer": {
            "total_training_steps": -(-rl["max_steps"] // rl["num_iterations"]),
            "save_freq": rl["save_steps"],
            "test_freq": rl["eval_steps"],
            "n_gpus_per_node": 1,
            "nnodes": 1,
            "logger": ["console"],
        },
    }
    notes = [
        *_stop_note(rl),
        *_optim_note(rl),
        *_adapter_note(config),
        "a training step of verl is one rollout; ours is one optimizer step",
        "the learning rate stays at its peak; ours falls as a cosine (the key for it differs between versions of verl)",
        f"adam: betas {rl['adam_beta1']}, {rl['adam_beta2']}, epsilon {rl['adam_epsilon']}",
        *_reward_notes(rl),
        *_limit_note(rl),
    ]
    if rl["min_p"]:
        notes.append(f"min_p={rl['min_p']}: not in verl's rollout settings")
    if rl["max_resample"] or rl["mask_truncated_completions"]:
        notes.append("max_resample and mask_truncated_completions: not set here")
    if config["model"]["path"] is None:
        notes.append("MODEL: export one with `postgrad export RUN --to hf DIR` and put its folder here")
    return settings, notes


def _trl_optimization(stage: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    same = (
        "max_steps",
        "learning_rate",
        "warmup_steps",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "save_steps",
        "save_total_limit",
        "per_device_train_batch_size",
    )
    floor = stage["min_lr_ratio"]
    schedule: dict[str, Any] = {"lr_scheduler_type": "cosine"}
    if floor:
        schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": floor}}
    return {
        **{name: stage[name] for name in same},
        "gradient_checkpointing": bool(stage["gradient_checkpointing"]),
        **schedule,
        "bf16": config["model"]["dtype"] == "bfloat16",
        "seed": config["seed"],
        "report_to": "none",
    }


def _adapter_note(config: Mapping[str, Any]) -> list[str]:
    adapter = config["model"]["adapter"]
    return [] if adapter is None else [f"model.adapter: give the trainer peft_config=peft.LoraConfig(**{adapter})"]


def _optim_note(stage: Mapping[str, Any]) -> list[str]:
    optim = stage["optim"]
    return [] if optim == "adamw" else [f"optim={optim}: AdamW there, whose steps at this rate are shorter"]


def _stop_note(stage: Mapping[str, Any]) -> list[str]:
    stop = stage["stop_step"]
    return [] if stop is None else [f"stop_step={stop}: stop by hand there, on the schedule of max_steps"]


def _limit_note(rl: Mapping[str, Any]) -> list[str]:
    limit = rl["max_tokens_per_micro_batch"]
    return [] if limit is None else [f"max_tokens_per_micro_batch={limit}: completions are counted there, not tokens"]


def _reward_notes(rl: Mapping[str, Any]) -> list[str]:
    weights = {name: value for name, value in rl["rewards"].items() if isinstance(value, float) and value}
    return [f"rewards are functions of your own there; here they were {weights}"]


# Rows


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _prompt_completion(example: Example) -> dict[str, Any]:
    completion = _chat([Message("assistant", example.response)])
    return {"prompt": _chat(example.prompt), "completion": completion, "weight": example.weight, "id": example.id}


def _prompt_only(problem: Problem) -> dict[str, Any]:
    return {"prompt": _chat(problem.prompt), "gold": problem.gold, "id": problem.id}


def _verl_row(problem: Problem, split: str, index: int) -> dict[str, Any]:
    return {
        "data_source": "postgrad",
        "prompt": _chat(problem.prompt),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.gold},
        "extra_info": {"split": split, "index": index, "id": problem.id},
    }


# Files


def _config(run: Path) -> Mapping[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run} is not a run's folder: it has no config.yaml")
    config: Mapping[str, Any] = read_yaml(path.read_text(encoding="utf-8"), str(path))
    return config


def _problems(run: Path, name: str) -> list[Problem]:
    path = run / "data" / f"{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the run did not get to its data yet")
    return list(read_jsonl(Problem, path))


def _fresh(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: choose another folder")
    out.mkdir(parents=True, exist_ok=True)


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_yaml(path: Path, settings: Mapping[str, Any], notes: Sequence[str]) -> None:
    comments = "".join(f"# {note}\n" for note in notes)
    path.write_text(comments + yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
