"""What a stage of training can be told. Typed, frozen, no torch. Names are TRL's where the meaning is the same."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad.config import Settings

Unit = Literal["tokens", "characters"]


class Scratch(Settings):
    """A small Qwen3 made from nothing, with the domain's own tokenizer."""

    hidden_size: PositiveInt = 128
    num_hidden_layers: PositiveInt = 3
    num_attention_heads: PositiveInt = 4
    num_key_value_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 384
    max_position_embeddings: PositiveInt = 1024
    initializer_range: PositiveFloat = Field(
        0.02,
        description="standard deviation of the first weights; a narrow model learns to copy from its prompt far sooner at 0.06",
    )


class Adapter(Settings):
    """A low-rank adapter instead of all weights. Keys are PEFT's."""

    r: PositiveInt = Field(16, description="rank")
    lora_alpha: PositiveInt = Field(32, description="the adapter is scaled by lora_alpha / r")
    use_rslora: bool = Field(
        False, description="scale by lora_alpha / sqrt(r), so that a change's size is about that of any r"
    )
    use_dora: bool = Field(False, description="also train the length of each row of a weight")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs set to 0 in training")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="last parts of layers' names, or one regular expression; all-linear: all but the head"
    )


class Model(Settings):
    path: str | None = Field(None, description="a local Hugging Face folder or a hub id; None: from scratch")
    scratch: Scratch | None = Field(None, description="the shape to make where path is None")
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    adapter: Adapter | None = Field(
        None, description="train this instead of the weights; what a stage gives on has it merged. null: all weights"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.scratch is None):
            raise ValueError(
                "give exactly one of model.path (a folder or hub id) and model.scratch (a shape to train from nothing)"
            )
        return self


class Optimization(Settings):
    """What both stages need to take steps."""

    max_steps: PositiveInt = Field(description="optimizer steps; the cosine schedule ends here")
    stop_step: PositiveInt | None = Field(
        None, description="leave after this step, on the schedule of max_steps; None: at max_steps"
    )
    learning_rate: PositiveFloat = Field(description="peak learning rate")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up, in steps")
    min_lr_ratio: float = Field(
        0.0, ge=0, le=1, description="learning rate at the end of the cosine, as a share of the peak"
    )
    optim: Literal["adamw", "exadam", "exadam_v1"] = Field(
        "adamw",
        description="exadam takes steps 2 to 16 times as long at the same learning_rate and wants warmup_steps; exadam_v1 is its paper's first version, "
        "whose steps grow without bound",
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay; matrices only")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: PositiveFloat = 1e-8
    master_weights: bool = Field(
        True,
        description="with model.dtype=bfloat16: keep 16 more bits of each weight, so that steps are those on float32 weights; "
        "false saves 2 bytes a parameter and loses every change below half a bfloat16's spacing, 0.2 to 0.4 % of the weight",
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are clipped to this global norm")
    gradient_checkpointing: bool | Literal["selective"] = Field(
        False,
        description="recompute activations in the backward pass: true all of a layer's, selective those that are cheap (without "
        "torch_compile: all but outputs of matrix products and attention)",
    )
    torch_compile: bool = Field(
        False, description="compile each layer; the first step and the first rollout take minutes longer"
    )
    save_steps: PositiveInt = Field(100, description="steps between checkpoints")
    save_total_limit: PositiveInt = Field(2, description="how many recent checkpoints to keep besides the best")
    eval_steps: PositiveInt = Field(50, description="steps between validations")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Optimization:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be smaller than max_steps={self.max_steps}")
        if self.stop_step is not None and self.stop_step > self.max_steps:
            raise ValueError(f"stop_step={self.stop_step} must not exceed max_steps={self.max_steps}")
        return self

    @property
    def last_step(self) -> int:
        return self.max_steps if self.stop_step is None else self.stop_step


class SftSettings(Optimization):
    """Supervised fine-tuning: packed rows, loss on the response only."""

    max_length: PositiveInt = Field(
        description="tokens of one packed row; a longer example is an error or left out, see `overlong`"
    )
    per_device_train_batch_size: PositiveInt = Field(1, description="packed rows in a micro-batch")
    gradient_accumulation_steps: PositiveInt = Field(
        1, description="micro-batches in a step; several ranks divide them among themselves"
    )
    overlong: Literal["error", "drop"] = Field(
        "error", description="what to do with an example longer than max_length; a drop is counted"
    )

    @property
    def rows_per_step(self) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


class RewardSettings(Settings):
    """Weights of the parts; 0 leaves a part out. Formulas: postgrad/train/reward.py."""

    format: float = 0.0
    format_thought: float = 0.0
    accuracy: float = 0.0
    cosine_length: float = 0.0
    cosine_similarity: float = 0.0
    length_penalty: float = 0.0
    soft_overlong: float = 0.0
    repetition: float = 0.0
    step_markers: float = Field(0.0, description="hackable, by listing marks: for experiments on that")
    length_unit: Unit = Field("tokens", description="what lengths are counted in; the authors' code counts characters")
    max_length: PositiveInt = Field(description="length at which the cosine is flat, in length_unit")
    gate_length: bool = Field(
        True, description="give the length penalty to correct traces only, so that order cannot invert"
    )
    overlong_buffer: PositiveInt = Field(64, description="soft over-long: the penalty grows over this many last tokens")
    repetition_ngram: PositiveInt = 3
    min_think: int = Field(20, ge=0, description="format_thought: letters and digits between the tags, at least")

    @model_validator(mode="after")
    def _something_is_rewarded(self) -> RewardSettings:
        parts = (
            self.format,
            self.format_thought,
            self.accuracy,
            self.cosine_length,
            self.cosine_similarity,
            self.length_penalty,
            self.soft_overlong,
            self.repetition,
            self.step_markers,
        )
        if not any(parts):
            raise ValueError("every reward weight is 0: give at least one part a weight")
        return self


class VllmSettings(Settings):
    """A vLLM server to sample with: one that runs, or one that stage two starts and ends."""

    server_base_url: str | None = Field(
        None, description="of a running server, as in http://host:8000; null: start one with the rest of this section"
    )
    executable: str = Field("vllm", description="the command, which may be in another environment than this one")
    devices: str | None = Field(
        None, description="GPUs of the server as CUDA_VISIBLE_DEVICES names them, as in 1,2; null: the trainer's own"
    )
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs that share one copy of the model")
    gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="share of a GPU's memory that the server takes and keeps"
    )

    @model_validator(mode="after")
    def _devices_suffice(self) -> VllmSettings:
        given = 1 if self.devices is None else len(self.devices.split(","))
        if self.tensor_parallel_size > given:
            raise ValueError(
                f"tensor_parallel_size={self.tensor_parallel_size} and devices={self.devices!r} names {given}: name as many GPUs, none of "
                "them the trainer's"
            )
        return self


class PolicySettings(Optimization):
    """Learning from groups of one's own samples, whatever they are rewarded for."""

    prompts_per_step: PositiveInt = Field(description="problems sampled for one rollout")
    num_generations: int = Field(8, ge=2, description="G, the group: samples of one problem")
    per_device_train_batch_size: PositiveInt = Field(
        description="completions in a micro-batch; must divide prompts_per_step * num_generations"
    )
    max_tokens_per_micro_batch: PositiveInt | None = Field(
        None,
        description="fill micro-batches up to this many tokens instead, with whole groups, whose prompts count once; null: "
        "per_device_train_batch_size completions",
    )
    num_iterations: PositiveInt = Field(1, description="optimizer steps on one rollout; clipping acts only above 1")
    max_prompt_length: PositiveInt = Field(512, description="tokens; a longer prompt is an error")
    max_completion_length: PositiveInt = Field(description="tokens sampled at most")
    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    min_p: float = Field(0.0, ge=0, lt=1)
    epsilon: float = Field(0.2, gt=0, lt=1, description="the ratio is clipped below 1 - epsilon")
    epsilon_high: PositiveFloat | None = Field(
        None, description="and above 1 + epsilon_high; None: the same as epsilon"
    )
    beta: float = Field(0.0, ge=0, description="weight of the k3 KL to the frozen reference; 0 loads no reference")
    loss_type: Literal["grpo", "bnpo", "dapo", "dr_grpo"] = Field(
        "dapo",
        description="what token losses are divided by: grpo a sequence's own length, bnpo the micro-batch's tokens, "
        "dapo the step's tokens, dr_grpo a constant",
    )
    scale_rewards: Literal["group", "none"] = Field(
        "group", description="group: divide the advantage by the group's standard deviation"
    )
    mask_truncated_completions: bool = Field(
        False, description="completions cut at max_completion_length give no gradient"
    )
    max_resample: int = Field(0, ge=0, description="refill groups without variance by up to this many further rollouts")

    @model_validator(mode="after")
    def _batch_algebra(self) -> PolicySettings:
        completions = self.prompts_per_step * self.num_generations
        if completions % self.per_device_train_batch_size:
            raise ValueError(
                f"prompts_per_step * num_generations = {self.prompts_per_step} * {self.num_generations} = {completions} "
                f"is not a multiple of per_device_train_batch_size = {self.per_device_train_batch_size}: "
                "change one of the three"
            )
        budget, longest = self.max_tokens_per_micro_batch, self.max_prompt_length + self.max_completion_length
        if budget is not None and self.loss_type == "bnpo":
            raise ValueError(
                "loss_type=bnpo divides by a micro-batch's own tokens, so it wants micro-batches of per_device_train_batch_size completions: "
                "set max_tokens_per_micro_batch to null, or loss_type to dapo"
            )
        if budget is not None and budget < longest:
            raise ValueError(
                f"max_tokens_per_micro_batch={budget} has no room for one completion of max_prompt_length + max_completion_length = "
                f"{self.max_prompt_length} + {self.max_completion_length} tokens: raise it to {longest}, or lower them"
            )
        return self


class GrpoSettings(PolicySettings):
    """Group-relative policy optimisation on problems with answers."""

    sampler: Literal["engine", "vllm"] = Field(
        "engine",
        description="what rollouts and validations are sampled with: the engine in this process, or a vLLM server",
    )
    vllm: VllmSettings = VllmSettings()
    vllm_importance_sampling_correction: bool | None = Field(
        None,
        description="weigh losses by trainer / sampler probabilities; null: where sampler is vllm, whose numbers differ",
    )
    vllm_importance_sampling_mode: Literal["token_truncate", "sequence_mask"] = Field(
        "sequence_mask", description="by token, cut at clip_max; or by sequence, 0 above clip_max"
    )
    vllm_importance_sampling_clip_max: float = Field(3.0, ge=1, description="the bound of those ratios")
    rollback: bool = Field(
        False, description="end the stage at an alarm of the monitors and hand on its newest checkpoint of before it"
    )
    rewards: RewardSettings
