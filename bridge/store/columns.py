"""Every list of names that records, tables, figures and the report share, once.

``docs/columns.md`` is made from this file: ``python -m bridge.store.columns > docs/columns.md``.
A cost column is a line in :data:`COSTS`; a number that a method logs gets a line in
:data:`DYNAMICS`, which says what it means, and needs nothing else to reach the tidy table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a tidy table."""

    name: str
    meaning: str
    unit: str = ""
    label: str = ""
    """Its heading in tables; empty: no table shows it."""
    path: str = ""
    """Where ``done.json`` has it (costs), keys joined by dots; ``scores:`` is of scores.json."""
    needed: bool = False
    """Whether a tidy table without it is refused."""


KEY = ("suite", "model", "dataset", "method", "seed")
"""What names a run, in every tidy table."""

STAGES = ("rollout", "grade", "update", "sync", "checkpoint", "probe")
"""What the seconds of training are divided into, in the order of a step."""

RUNS = (
    Column("status", "how the run ended", needed=True),
    Column("reason", "why, where it did not end well", needed=True),
    Column("spec_hash", "hash of all that can change a score", needed=True),
    Column("train_hash", "hash of all that can change the trained policy"),
    Column("implementation", "file of the method"),
    Column("world", "base model and training data, drawn anew; empty: as the suite declares them"),
    Column("lr_sft", "learning rate of SFT steps"),
    Column("lr_rl", "learning rate of RL and joint steps"),
    Column("commit", "of the code; `no checkout` outside of git", needed=True),
    Column("dirty", "whether the code differed from the commit", needed=True),
    Column("device", "what it was computed on", needed=True),
    Column("torch_version", "", needed=True),
    Column("python_version", "", needed=True),
    Column("n_parameters", "of the base model", needed=True),
    Column("n_steps", "steps of training"),
    Column("train_s", "seconds of training", "s", needed=True),
    Column("evaluate_s", "seconds of evaluation", "s", needed=True),
    Column("started_at", "UTC", needed=True),
    Column("base_model_hash", "of the base model's weights", needed=True),
    Column("data_hash", "of the training problems", needed=True),
    Column("grader_version", "revision of the grader and of its libraries", needed=True),
    Column("demo_reward", "mean reward that the demonstrations earn"),
    Column("folder", "of the run, below the suite's", needed=True),
)
SCORES = (
    Column("benchmark", "", needed=True),
    Column("question_id", "", needed=True),
    Column("difficulty", "number of steps, or the origin's level"),
    Column("greedy_verdict", "of the greedy answer", needed=True),
    Column("greedy_correct", "1 if that verdict is `correct`", needed=True),
    Column("greedy_tokens", "length of the greedy answer", "tokens"),
    Column("n_samples", "sampled answers", needed=True),
    Column("n_sampled_correct", "correct ones among them", needed=True),
    Column("sampled_tokens_mean", "their mean length", "tokens"),
    Column("spec_hash", "of the run that answered", needed=True),
)
SHARED_DYNAMICS = (
    Column("step", "0 is the untouched model", needed=True),
    Column("kind", "sft, rl or joint; probe for step 0"),
    Column("rl_step", "batches of rollouts so far", needed=True),
    Column("progress", "share of the run", needed=True),
    Column("elapsed_s", "seconds so far, from timings.jsonl", "s", needed=True),
    Column("reward_mean", "mean reward of the step's rollouts", needed=True),
    Column("accuracy", "share of the rollouts that are correct"),
    Column("response_length_mean", "end of turn included", "tokens", needed=True),
    Column("response_length_max", "", "tokens"),
    Column("truncated_share", "share of rollouts ended by the length limit"),
    Column("zero_spread_share", "share of groups whose rewards are all equal: they teach nothing"),
    Column("entropy", "exact, mean over sampled tokens", "nats"),
    Column("kl", "k1 estimate of KL(policy to reference) per token", "nats"),
    Column("demo_loss_train", "per token, on training demonstrations", "nats"),
    Column("demo_loss_heldout", "per token, on held-out demonstrations", "nats"),
    Column("heldout_accuracy", "greedy, on the probe's fixed questions", needed=True),
    Column("grad_norm", "of the base weights' direction, before clipping"),
    Column("lr", "learning rate of the step"),
    Column("cooperative_gain", "reward under (theta, w) minus under (theta-hat, w), held out"),
    Column("grad_cosine", "of both terms' gradients on the base weights"),
    Column("adapter_norm", "Frobenius norm of what the adapter adds to the weights"),
    Column("shadow_distance", "Euclidean, of base and shadow weights"),
)
"""Columns that the dynamics of every suite have, empty where nothing was logged."""
DYNAMICS = (
    *SHARED_DYNAMICS,
    Column("stage", "stage of the method"),
    Column("train_accuracy", "greedy, on the probe's training questions"),
    Column("unparsed_share", "share of rollouts without an answer that can be read"),
    Column("grader_timeouts", "answers on which the grader timed out"),
    Column("temperature", "that rollouts are sampled at, where it is searched for"),
    Column("response_limit", "longest rollout, where it goes in stages", "tokens"),
    Column("rows_dropped", "rollouts that the method left out of the update"),
    Column("rl_loss", "before mixing"),
    Column("demonstration_loss", "before mixing", "nats"),
    Column("ref_kl_loss", "divergence from the teacher, before mixing", "nats"),
    Column("rl_grad_norm", "before clipping"),
    Column("demonstration_grad_norm", "before clipping"),
    Column("ref_kl_grad_norm", "before clipping"),
    Column("adapter_grad_norm", "before clipping"),
    Column("shadow_grad_norm", "before clipping"),
    Column("teacher_grad_norm", "where w is the base itself"),
    Column("sync_logprob_gap", "mean |sampler - trainer|, worst quarter of the answers", "nats"),
    Column("rl_clip_share", "share of RL tokens whose ratio was clipped"),
    Column("tis_weight_mean", "mean truncated importance weight"),
    Column("teacher_sft_norm", "of w's gradient: demonstrations"),
    Column("teacher_rl_norm", "of w's gradient: reward at (theta, w)"),
    Column("teacher_shadow_norm", "of w's gradient: reward at (theta-hat, w)"),
    Column("gain_gradient_norm", "of the difference of the last two"),
    Column("shadow_clip_share", "share of the shadow's tokens whose ratio was clipped"),
    Column("rl_weight", "lambda, where it is annealed"),
    Column("sft_probability", "SASR: p of an SFT step"),
    Column("gate_draw", "SASR: the draw that p is compared with"),
    Column("gate_norm", "SASR: norm of the last SFT gradient"),
    Column("gate_warmup_norm", "SASR: the same at the end of the warm-up"),
    Column("gate_age_steps", "SASR: steps since gate_norm was taken"),
    Column("demonstrated_group_share", "LUFFY: share of groups that hold a demonstration"),
    Column("mu", "CHORD: weight of the demonstration term"),
    Column("phi_mean", "CHORD: mean of p (1 - p)"),
    Column("gate_failed_share", "HPT: share of prompts that fail the gate"),
    Column("gate_without_demonstration", "HPT: failed prompts without a demonstration"),
    Column("token_weight_mean", "weighted SFT: mean of c_t over the step's demonstration tokens"),
    Column("token_weight_p10", "its 10 % quantile"),
    Column("token_weight_p90", "its 90 % quantile"),
    Column("phi_demonstrations", "IDFT: mean of log p + entropy, demonstration tokens", "nats"),
    Column("phi_own_samples", "IDFT: the same on the policy's own held-out answers", "nats"),
    Column("entropy_demonstrations", "SRFT: mean over demonstration tokens", "nats"),
    Column("entropy_right_rollouts", "SRFT: mean over the tokens of right rollouts", "nats"),
    Column("buffered", "ReLIFT: demonstrations that wait for an SFT step"),
    Column("prefixed_group_share", "PrefixRL: share of groups that continue a demonstration"),
    Column("taught_rows", "sdft, opsd: answers that a teacher has read"),
    Column("teacher_prompt_tokens", "sdft, opsd: mean length of its prompt", "tokens"),
    Column("teacher_agreement", "sdft, opsd: share of tokens with the policy's likeliest"),
    Column("rewrites_kept_share", "hinted_decoding: share of rewrites that are learnt"),
    Column("mu_optimum", "GAC: the mu that its measurements ask for"),
    Column("gac_rl", "GAC: variance of the rollouts' advantages"),
    Column("gac_sft", "GAC: variance of the demonstrations' mean NLL"),
    Column("gac_distance", "GAC: mean squared difference of the two coefficients"),
    Column("groups_dropped", "DAPO: groups that the filter dropped"),
    Column("groups_kept", "DAPO: groups that it kept"),
    Column("penalty_mean", "phases: mean KL penalty in the reward", "nats"),
    Column("heldout_reward", "mean reward of sampled answers, held out (probe_samples)"),
    Column("heldout_lenient", "the same under the lenient score"),
    Column("heldout_format", "share of those answers with a box"),
    Column("heldout_length", "their mean length", "tokens"),
    Column("heldout_mcc", "Matthews correlation of labels"),
    Column("train_reward", "as heldout_reward, on training questions"),
    Column("train_lenient", ""),
    Column("train_format", ""),
    Column("train_length", "", "tokens"),
    Column("train_mcc", ""),
    Column("demo_loss_train_nats", "per demonstration", "nats"),
    Column("demo_loss_heldout_nats", "per demonstration", "nats"),
    Column("probe_rl_norm", "norm of the gradient of -J, held out"),
    Column("probe_sft_norm", "norm of the gradient of L, held out"),
    Column("probe_cosine", "their cosine"),
)
COSTS = (
    *(Column(f"seconds_{name}", f"in {name}", "s", path=f"seconds.{name}") for name in STAGES),
    Column("seconds_train", "of the whole training", "s", "training", "seconds.total", needed=True),
    Column(
        "seconds_evaluate", "of evaluation", "s", "evaluation", "scores:seconds.total", needed=True
    ),
    Column("device_hours", "of all ranks", "h", "device time", "device_hours", needed=True),
    Column(
        "memory_host_gib", "resident", "GiB", "peak host memory", "memory_gib.host", needed=True
    ),
    Column(
        "memory_device_gib",
        "of the whole device",
        "GiB",
        "peak device memory",
        "memory_gib.device",
        needed=True,
    ),
    Column("memory_allocated_gib", "by tensors", "GiB", "peak allocated", "memory_gib.allocated"),
    Column("memory_reserved_gib", "by PyTorch", "GiB", "peak reserved", "memory_gib.reserved"),
    Column("tokens_generated", "", "", "generated tokens", "tokens.generated", needed=True),
    Column(
        "tokens_trained", "prompts included", "", "trained tokens", "tokens.trained", needed=True
    ),
    Column("tokens_demonstration", "trained on, prompts not counted", path="tokens.demonstration"),
    Column("flops_generate", "2 N per generated token", path="flops.generate"),
    Column("flops_train", "6 N per trained token, 2 N per scored one", path="flops.train"),
    Column("flops_total", "of training", "", "FLOPs", "flops.total", needed=True),
)
ANSWERS = (
    Column("benchmark", ""),
    Column("question_id", ""),
    Column("question", ""),
    Column("gold", "gold answer"),
    Column("difficulty", ""),
    Column("sample", "-1: the greedy answer"),
    Column("text", "what the model wrote, cut after 4,000 characters"),
    Column("length", "of the whole text", "characters"),
    Column("extracted", "what the grader read"),
    Column("verdict", ""),
)
TIDY: dict[str, tuple[Column, ...]] = {
    "runs": RUNS,
    "scores": SCORES,
    "dynamics": DYNAMICS,
    "costs": COSTS,
    "answers": ANSWERS,
}
"""The tidy tables that are keyed by :data:`KEY`."""
TIDY_TABLES = (*TIDY, "contamination")
NEEDED_TABLES = ("runs", "scores", "dynamics", "costs")
"""Without one of these nothing can be shown."""
TABLE_FORMATS = ("csv", "md", "tex", "html")
FIGURE_FORMATS = ("png", "pdf", "svg")


def needed(table: str) -> tuple[str, ...]:
    """Names of the columns that a tidy table must have."""
    return (*KEY, *(column.name for column in TIDY[table] if column.needed))


def names(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of columns."""
    return tuple(column.name for column in columns)


def page() -> str:
    """``docs/columns.md``."""
    parts = [
        "# Columns\n\nMade by `python -m bridge.store.columns`. Each tidy table also has "
        f"{', '.join(f'`{name}`' for name in KEY)}.\n"
    ]
    titles = {
        "runs": "one row per run",
        "scores": "one row per run and question",
        "dynamics": "one row per run and step: what `dynamics.jsonl` holds, and the clock",
        "costs": "one row per finished run",
        "answers": "one row per run and question: the greedy answer",
    }
    for table, columns in TIDY.items():
        parts.append(f"\n## {table}\n\n{titles[table].capitalize()}.\n\n")
        parts.append("| column | meaning | unit |\n|---|---|---|\n")
        parts += [f"| `{c.name}` | {c.meaning} | {c.unit} |\n" for c in columns]
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
