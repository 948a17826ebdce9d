"""The tables of a recipe: every key with its type, its default and what it is. Sizes that cannot be are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

JsonObject = dict[str, Any]  # as in sieverl.types, which imports NumPy: help needs none
Beta = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Lora(Table):
    """Train adapters only (PEFT). Rank 0 trains all weights."""

    rank: int = Field(0, ge=0, description="rank of the adapters; 0 trains all weights")
    alpha: float = Field(16.0, gt=0, description="their scale is alpha / rank")
    targets: str = Field(
        "all-linear",
        min_length=1,
        description="modules that get adapters, as PEFT names them: all-linear, or a regular expression",
    )


class Model(Table):
    """The model to start from."""

    path: str = Field("", description="Hugging Face directory or Hub id, base or hasty, which are shipped; empty: base")
    attention: str | None = Field(None, description="attention implementation of transformers; default: its own choice")
    device: str = Field("auto", description="auto, cpu or cuda")
    quantization: Literal["nf4"] | None = Field(None, description="nf4: frozen weights in 4 bits under LoRA (QLoRA)")
    lora: Lora = Lora()


class Data(Table):
    """Where prompts come from and how the model sees them."""

    source: str = Field("", description="file, known name, Hub id or reasoning_gym:TASK")
    split: str = Field("train", description="split of the source")
    columns: dict[str, str] = Field({}, description="which column is the prompt and which the answer")
    options: JsonObject = Field({}, description="options of the source, such as a reasoning-gym config")
    limit: int | None = Field(None, gt=0, description="the first so many prompts; by default all")
    template: Literal["chat", "plain", "auto"] = Field(
        "chat",
        description="chat renders the model's chat template, plain is the text as it is, auto chat where there is one",
    )
    system: str | None = Field(None, description="system message of the chat")
    suffix: str | None = Field(None, description="text after each prompt; boxed is the paper's instruction")
    max_prompt_tokens: int = Field(1024, gt=0, description="longest prompt, in tokens")
    overlong: Literal["error", "drop"] = Field("error", description="prompts longer than max_prompt_tokens")
    check_gold: int = Field(64, ge=0, description="gold answers checked before training; 0: none")


class Verify(BaseModel):
    """The verifier by name; the options of that verifier are keys of the same table."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = Field("math", description="math, number, choice, string, regex, reasoning_gym, sum, or FILE.py:NAME")
    workers: int = Field(2, gt=0, description="worker processes")
    timeout_s: float = Field(5.0, gt=0, description="seconds for a response")
    memory_mb: int = Field(1024, gt=0, description="MiB of memory for a response, beyond the imports")
    network: bool = Field(False, description="whether workers may use the network; else the system denies it if it can")
    environment: tuple[str, ...] = Field((), description="environment variables that workers see beside the usual ones")
    graded: bool | None = Field(None, description="whether rewards are graded; by default decided from the rewards")
    correct_from: float = Field(1.0, description="the reward from which on a response counts as correct")

    @property
    def spec(self) -> JsonObject:
        """What `sieverl.verify.build` takes."""
        own = {"workers", "timeout_s", "memory_mb", "network", "environment", "graded"}
        own |= {"correct_from"} if self.correct_from == 1.0 else set()
        return {k: v for k, v in self.model_dump().items() if k not in own}


class Rollout(Table):
    """How responses are sampled."""

    prompts: int = Field(32, gt=0, description="prompts per step")
    samples: int = Field(8, gt=0, description="responses per prompt (n)")
    max_tokens: int = Field(512, gt=0, description="longest response, in tokens")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field((), description="texts that end a response")
    max_num_seqs: int = Field(512, gt=0, description="responses decoded at the same time")
    staleness: int = Field(0, ge=0, description="steps by which sampling runs ahead of training; 0: strictly on-policy")
    engine: Literal["torch", "transformers", "vllm", "vllm_server"] = Field(
        "torch",
        description="built-in engine, continuous batching of transformers, vLLM in this process or a vLLM server",
    )
    kv_cache_gb: float = Field(4.0, gt=0, description="vllm: memory of the KV cache of each rank")
    tensor_parallel_size: int = Field(1, gt=0, description="vllm: ranks that share one engine")
    servers: tuple[str, ...] = Field((), description='vllm_server: addresses, such as "http://127.0.0.1:8000"')
    weights_dir: str = Field("", description="vllm_server: directory shared with the servers, to pass weights")
    timeout_s: float = Field(600.0, gt=0, description="vllm_server: deadline of every wait for a server")
    allow_remote_servers: bool = Field(False, description="vllm_server: servers on other machines (private network)")


class Train(Table):
    """How the policy is updated."""

    lr: float = Field(1e-6, gt=0, description="learning rate")
    minibatches: int = Field(1, gt=0, description="optimiser steps per batch of rollouts")
    epochs: int = Field(1, gt=0, description="passes over the mini-batches")
    micro_batch_tokens: int = Field(16384, gt=0, description="tokens per forward and backward pass")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rate, after the warm-up"
    )
    warmup_updates: int = Field(0, ge=0, description="optimiser steps in which the learning rate rises from 0")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="share of lr at the end of a linear or cosine schedule")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="of AdamW")
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, ge=0, description="0 turns clipping off")
    old: Literal["learner", "engine"] = Field("learner", description="whose log-probs are the old ones of the ratio")
    reference: Literal["initial", "last"] = Field(
        "initial", description="the initial policy, or the one before this step"
    )
    mask_truncated: bool = Field(False, description="never train on truncated responses")


class Evaluate(Table):
    """Held-out evaluation, before training and every `every` steps."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0 only before and after")
    name: str = Field("heldout", description="name of the metrics, eval/NAME/...")
    source: str = Field("", description="held-out prompts; empty: no evaluation")
    split: str = Field("test", description="split of the source")
    columns: dict[str, str] = Field({}, description="as data.columns")
    options: JsonObject = Field({}, description="as data.options")
    limit: int = Field(256, gt=0, description="prompts")
    samples: int = Field(4, gt=0, description="k of avg@k")
    temperature: float = Field(1.0, ge=0, description="of sampling; 0 is greedy")
    kl_prompts: int = Field(32, ge=0, description="held-out prompts for the KL to the reference policy; 0 turns it off")


class Distributed(Table):
    """How several processes share the work; one process takes no notice."""

    strategy: Literal["replicated", "fsdp"] = Field("replicated", description="a whole model per rank, or sharded")
    shard_size: int = Field(0, ge=0, description="fsdp: ranks that hold a model between them (HSDP); 0: all of them")
    cpu_offload: bool = Field(False, description="fsdp: parameters and optimiser state in CPU memory")
    activation_checkpointing: bool = Field(
        False, description="recompute each decoder block in the backward: less memory, a third more time; any strategy"
    )
    check_memory: bool = Field(True, description="refuse a model too large for the memory before it loads")


class Checkpoint(Table):
    """When checkpoints are written and how many are kept."""

    every: int = Field(50, ge=0, description="steps between checkpoints; 0 only at the end")
    keep: int = Field(2, gt=0, description="the newest checkpoints that are kept")
    keep_every: int = Field(0, ge=0, description="those of every so many steps are kept, too; 0: none")
    keep_best: bool = Field(False, description="the one with the best held-out evaluation is kept, too")
    background: bool = Field(True, description="copy the state in memory, and have a thread write it meanwhile")
    format: Literal["full", "sharded"] = Field(
        "full", description="the training state in one file, or in a file for each rank; both resume anywhere"
    )


class AlarmSetting(Table):
    """When a rule fires, and what it does then; docs/alarms.md has the rules."""

    do: Literal["off", "warn", "stop"] = Field("warn", description="off, warn or stop")
    threshold: float = Field(description="of the number that it looks at")
    steps: int = Field(1, ge=1, description="how many of the last steps (or evaluations) it looks at")
    share: float = Field(1.0, gt=0, le=1, description="in what share of them the threshold is passed; 1: in a row")


def _setting(threshold: float, steps: int = 1, do: Literal["off", "warn", "stop"] = "warn", share: float = 1.0) -> Any:
    """The default of a rule."""
    return Field(AlarmSetting(do=do, threshold=threshold, steps=steps, share=share))


class Stalled(Table):
    """The deadline of a run that makes no progress."""

    do: Literal["off", "warn", "stop"] = Field("warn", description="warn: print the stacks of all processes")
    seconds: float = Field(1800.0, gt=0, description="without a response, a micro-batch or a written file")


class Alarms(Table):
    """When a run warns, or stops itself; docs/alarms.md says what each rule looks at."""

    empty_steps: int = Field(20, ge=0, description="consecutive steps with nothing kept; 0: never")
    nonfinite_steps: int = Field(3, ge=0, description="consecutive steps with NaN or infinity; 0: never")
    engine_mismatch: float | None = Field(
        None,
        ge=0,
        description="mean |log-prob difference| in nats; 0: never; default: 0.001, in bfloat16 or with staleness 0.5",
    )
    little_kept: AlarmSetting = _setting(0.05, steps=50, share=0.8)
    reward_zero: AlarmSetting = _setting(0.0, steps=10)
    reward_one: AlarmSetting = _setting(1.0, steps=10)
    entropy: AlarmSetting = _setting(0.01, steps=5)
    kl_old: AlarmSetting = _setting(0.2, steps=3)
    kl_ref: AlarmSetting = _setting(1.0)
    length: AlarmSetting = _setting(4.0, steps=5)
    truncated: AlarmSetting = _setting(1.0, steps=10, do="stop")
    verifier_errors: AlarmSetting = _setting(0.1, steps=3)
    verifier_timeouts: AlarmSetting = _setting(0.1, steps=3)
    heldout: AlarmSetting = _setting(0.0)
    stalled: Stalled = Stalled()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """A table that gives some keys keeps the others; a word alone is its `do`."""
        if not isinstance(given, Mapping):
            return given
        merged = dict(given)
        for name in given:
            default = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(default, Table):
                own = {"do": given[name]} if isinstance(given[name], str) else given[name]
                merged[name] = {**default.model_dump(), **own} if isinstance(own, Mapping) else own
        return merged


class Trackers(Table):
    """Where a run is shown beside its directory; docs/trackers.md has how each of them is used."""

    use: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="tensorboard, wandb, trackio, mlflow, or FILE.py:NAME"
    )
    project: str = Field(
        "", description="project or experiment there; empty: as the tracker's environment says, or sieverl"
    )
    run_name: str = Field("", description="name of the run there; empty: that of the run directory")
    groups_every: int = Field(10, ge=0, description="steps between tables of groups and histograms; 0: none")
    groups: int = Field(4, gt=0, description="groups in a table, with all their responses")
    timeout_s: float = Field(30.0, ge=0, description="seconds to wait for trackers at the end of the run")

    @field_validator("use", mode="before")
    @classmethod
    def _one(cls, given: object) -> object:
        """A name alone is a list of one; `none` is none."""
        return [] if given == "none" else [given] if isinstance(given, str) else given


class Axes(Table):
    """Axes of the algorithm that are replaced by name; see `sieverl algorithms`."""

    shape: Literal["signed", "zero_one", "overlong"] | None = Field(
        None, description="how rewards become numbers to learn from"
    )
    aggregate: Literal["sequence_mean", "token_mean", "constant_length"] | None = Field(
        None, description="how the losses of tokens become one"
    )
    denominator: Literal["sampled", "kept"] | None = Field(None, description="what the loss is divided by")
    clip_low: float | None = Field(None, description="how far the ratio may fall below 1")
    clip_high: float | None = Field(None, description="how far the ratio may rise above 1")
    dual_clip: float | None = Field(
        None, description="bound of the loss where the advantage is negative (arXiv 1912.09729)"
    )
    kl: Literal["k1", "k2", "k3"] | None = Field(
        None, description="estimator of the KL penalty to the reference policy"
    )
    kl_coefficient: float | None = Field(None, description="weight of the KL penalty")
    kl_limit: float | None = Field(None, description="largest value of the KL penalty of a token")
    kl_in_reward: float | None = Field(None, description="weight of a KL penalty that is part of the reward")
    entropy_coefficient: float | None = Field(None, description="weight of the entropy bonus")
    penalty_denominator: Literal["kept", "sampled"] | None = Field(None, description="responses that a penalty is over")
    sieve: float | None = Field(
        None, ge=0, le=1, description="prompts whose group teaches with a smaller chance are passed over; 0: none"
    )
    sieve_explore: float | None = Field(
        None, ge=0, le=1, description="share of prompts that is sampled all the same (default: 0.05)"
    )
