"""Two-stage recipe for mathematics: long SFT for accuracy, then a short GRPO for fewer tokens at equal accuracy.

Paper: arXiv 2507.08267 (Fast-Math-R1), code analokmaus/kaggle-aimo2-fast-math-r1. Where the article and the code differ
(cosine similarity or cosine length, 10 or 20 epochs, tokens or characters) the preset says which it follows.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad.config import Settings
from postgrad.train.settings import GrpoSettings, SftSettings


class Scratch(Settings):
    """A small Qwen3 made from nothing, with the domain's own tokenizer."""

    hidden_size: PositiveInt = 128
    num_hidden_layers: PositiveInt = 3
    num_attention_heads: PositiveInt = 4
    num_key_value_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 384
    max_position_embeddings: PositiveInt = 1024


class Model(Settings):
    path: str | None = Field(None, description="a local Hugging Face folder or a hub id; None: from scratch")
    scratch: Scratch | None = Field(None, description="the shape to make where path is None")
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give exactly one of model.path (a folder or hub id) and model.scratch (a shape to train from nothing)")
        return self


class Arithmetic(Settings):
    """Problems made by postgrad/domains/arithmetic.py, disjoint in operands and templates between splits."""

    train: PositiveInt = Field(description="problems for stage one; stage two draws from the same split")
    validation: PositiveInt = 200
    test: PositiveInt = 1000
    min_steps: PositiveInt = 2
    max_steps: PositiveInt = 5
    recheck: float = Field(0.45, ge=0, lt=1, description="probability of one more redundant check after each step")
    traces: PositiveInt = Field(2, description="correct traces written for each problem, for the selection to choose from")


class Files(Settings):
    """Local files or folders in any form that postgrad/data/sources.py reads."""

    sft: str = Field(description="problem, trace and answer rows for stage one")
    rl: str = Field(description="problems with answers for stage two")
    test: str = Field(description="problems with answers to measure on")
    validation_fraction: float = Field(0.05, gt=0, lt=0.5, description="share of the rl rows kept out for validation")


class Selection(Settings):
    """The recipe's choice of hard problems (spec 3.1)."""

    min_trace_tokens: int = Field(0, ge=0, description="keep problems whose trace is longer than this")
    max_pass_rate: float = Field(1.0, ge=0, le=1, description="keep problems solved at most this often, where the rate is known")
    min_pass_rate: float = Field(0.0, ge=0, le=1)
    choose: Literal["shortest", "longest", "random"] = Field("shortest", description="which correct trace of a problem to keep")
    decontaminate: bool = Field(True, description="leave out training rows that overlap the test problems")


class Data(Settings):
    arithmetic: Arithmetic | None = None
    files: Files | None = None
    selection: Selection = Selection()
    system_prompt: str | None = Field(None, description="put before every problem")

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.arithmetic is None) == (self.files is None):
            raise ValueError("give exactly one of data.arithmetic (generated) and data.files (your own)")
        return self


class Evaluation(Settings):
    samples: PositiveInt = Field(1, description="traces for each test problem")
    max_tokens: PositiveInt
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)
    batch_size: PositiveInt = Field(256, description="sequences decoded at once")
    bootstrap: PositiveInt = Field(10_000, description="resamples behind each interval")
    budgets: tuple[float, ...] = Field((1.0, 0.75, 0.5, 0.37, 0.25), description="token budgets, as shares of the 95th percentile of length after SFT")
    max_accuracy_loss: PositiveFloat = Field(0.02, description="the claim: accuracy falls by no more than this")
    min_token_drop: PositiveFloat = Field(0.2, description="the claim: mean tokens fall by at least this share")
    min_sft_accuracy: PositiveFloat = Field(0.8, description="the claim: pass@1 after SFT")


class Config(Settings):
    seed: int = 0
    model: Model
    data: Data
    sft: SftSettings | None = Field(description="stage one; null: start stage two from the base model")
    rl: GrpoSettings
    eval: Evaluation
