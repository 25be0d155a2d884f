"""What a config of cuda_l1 says, key by key, and which settings do not fit each other. Nothing is made or loaded here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad import wiring
from postgrad.config import Settings
from postgrad.track import Name
from postgrad.train.settings import Model, PolicySettings, SftSettings

Strategy = Literal["buckets", "islands", "proportional", "uniform", "nothing"]
ARMS = ("grpo", "contrastive")


class Loops(Settings):
    """Tasks of postgrad/domains/loops. Training and test are disjoint in compositions and in constants."""

    language: Literal["cpp", "triton"] = Field(
        "cpp", description="of the kernels: C++ for one core, or Triton for a GPU"
    )
    families: tuple[str, ...] | None = Field(
        None, description="some of the families that the domain has in that language; null: all"
    )
    train: PositiveInt
    validation: PositiveInt = Field(14, description="of the training split, in no stage's training")
    test: PositiveInt
    read: int = Field(
        0,
        ge=0,
        description="further tasks of the training split that a model from nothing reads about, unjudged: two texts of each, a comparison of some",
    )
    compared: int = Field(
        2,
        ge=0,
        description="of each gathered task, rows of SFT that answer a contrastive prompt of gathered codes with a faster one",
    )


class KernelBench(Settings):
    """Files in KernelBench's form. As in the article, what is trained on is what is measured on."""

    folder: str = Field(description="a checkout of KernelBench, or its folder of levels")
    levels: tuple[PositiveInt, ...] = (1, 2, 3)
    backend: Literal["torch", "triton", "cuda"] = "cuda"


class Data(Settings):
    loops: Loops | None = None
    kernel_bench: KernelBench | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.loops is None) == (self.kernel_bench is None):
            raise ValueError("give exactly one of data.loops (generated) and data.kernel_bench (a folder)")
        return self

    @property
    def backend(self) -> Literal["cpp", "torch", "triton", "cuda"]:
        """What kernels are written in."""
        if self.loops is not None:
            return self.loops.language
        assert self.kernel_bench is not None, "there is exactly one source"
        return self.kernel_bench.backend


class Endpoint(Settings):
    """A model behind an OpenAI-compatible interface."""

    url: str
    name: str = Field(description="of the model, as the server calls it")
    key_variable: str | None = Field(None, description="the environment variable that holds the key")
    temperature: float = Field(1.0, ge=0)
    max_tokens: PositiveInt = 8192


class Gather(Settings):
    """Stage one's data: samplers are asked for faster kernels until so many are right."""

    teachers: tuple[str, ...] = Field((), description="scripted ones of data.loops, each with other skills")
    endpoints: tuple[Endpoint, ...] = ()
    tasks: PositiveInt | None = Field(None, description="of the training tasks, the first so many; null: all")
    tries: PositiveInt = Field(20, description="of each task and sampler, at most")
    keep: PositiveInt = Field(2, description="different successes of each task and sampler")

    @model_validator(mode="after")
    def _someone_is_asked(self) -> Gather:
        if not (self.teachers or self.endpoints):
            raise ValueError("give gather.teachers (scripted, for data.loops) or gather.endpoints")
        return self


class Judging(Settings):
    """How kernels are judged and timed: postgrad/kernels/evaluate.py."""

    how: Literal["quick", "full"] = Field(
        "quick",
        description="quick: few rounds at small sizes in CPU time, for training on loops; full: every check, at the tasks' own sizes",
    )
    seconds: PositiveFloat = Field(
        2.0, description="of timing one kernel, at most; a quiet machine needs a quarter of a second of quick's"
    )
    gpu: int | None = Field(
        None, ge=0, description="index of the NVIDIA GPU that kernels and references run on; null: the CPU"
    )
    at_once: PositiveInt = Field(2, description="tasks judged side by side by quick, which counts CPU time")
    alive: PositiveInt = Field(16, description="references kept running")


class Contrast(Settings):
    strategy: Strategy = Field("buckets", description="which earlier codes a prompt shows; nothing: best-of-N")
    exemplars: PositiveInt = Field(2, description="N, codes in a prompt")
    seeded: bool = Field(True, description="the archive begins with the successes of the stages before")


class Smoothing(Settings):
    """r = clip((r - mean) / std, -clip, clip) over the running rewards: postgrad/kernels/guard/smooth.py."""

    scope: Literal["per_task", "overall"] = "per_task"
    clip: PositiveFloat = 1.5
    window: int = Field(1000, ge=2, description="rewards after which the mean and the spread are exponential")
    refresh_every: PositiveInt = Field(
        100, description="rewards between refreshes of what is subtracted and divided by"
    )


class Evaluation(wiring.Measured):
    """`samples` are those of one round."""

    rounds: PositiveInt = Field(2, description="a contrastive prompt shows what the task's rounds before it gave")
    shown: int = Field(6, ge=0, description="kernels in the report, one of a family")
    min_correct_gain: float = Field(
        0.0, description="the claim: self-supervised over SFT, difference of the shares that are right"
    )
    min_speed_ratio: PositiveFloat = Field(
        1.0, description="the claim: contrastive over plain GRPO, ratio of geometric means"
    )


class Config(Settings):
    seed: int = 0
    report_to: tuple[Name, ...] = Field((), description="trackers besides metrics.jsonl")
    model: Model
    data: Data
    gather: Gather
    judging: Judging = Judging()
    pretrain: SftSettings | None = Field(
        None, description="of a model from nothing, on texts of data.loops.read; null: none"
    )
    sft: SftSettings
    self_supervised: PolicySettings
    rl: PolicySettings = Field(description="of both arms, so that they take as many evaluations")
    smoothing: Smoothing = Smoothing()
    contrast: Contrast = Contrast()
    eval: Evaluation

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.model.adapter is not None:
            raise ValueError("model.adapter: this recipe trains all weights; set it to null")
        if self.gather.teachers and not self.data.loops:
            raise ValueError(
                "gather.teachers know the tasks of data.loops only: give gather.endpoints for data.kernel_bench"
            )
        if self.data.backend == "cpp" and self.judging.gpu is not None:
            raise ValueError(f"judging.gpu={self.judging.gpu}, but C++ kernels run on the CPU: set judging.gpu=null")
        if self.data.backend in ("triton", "cuda") and self.judging.gpu is None:
            raise ValueError(
                f"{self.data.backend} kernels have a speed on a GPU only: set judging.gpu=0, or choose C++ (data.loops.language=cpp) or PyTorch "
                "(data.kernel_bench.backend=torch)"
            )
        if self.judging.how == "quick" and self.data.backend != "cpp":
            raise ValueError(
                "judging.how=quick is for data.loops in C++, which has small sizes and takes the CPU's time: set judging.how=full"
            )
        if self.pretrain and not (
            self.model.scratch and self.data.loops and self.data.loops.read and self.gather.teachers
        ):
            raise ValueError(
                "pretrain is for a model from nothing that reads the teachers' texts: give model.scratch, data.loops.read and gather.teachers, or "
                "set pretrain=null"
            )
        room = self.contrast.exemplars * self.rl.max_completion_length
        if self.contrast.strategy != "nothing" and self.rl.max_prompt_length <= room:
            raise ValueError(
                f"rl.max_prompt_length={self.rl.max_prompt_length} has no room for {self.contrast.exemplars} codes of "
                f"rl.max_completion_length={self.rl.max_completion_length} tokens and the task: raise it, or lower contrast.exemplars"
            )
        return self
