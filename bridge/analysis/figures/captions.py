"""Which figures exist, and what each shows: (title, caption) by file name. Imports nothing.

The workflow takes its list of files from here, `figures` draws them, `report` prints the captions.
"""

from __future__ import annotations

_SEEDS = (
    "Lines are means over finished seeds (n in the title), bands their 95 % t interval; with two "
    "seeds each is drawn as a thin line instead."
)
_MANY = "More than nine methods are shared out over panels, the baselines thin in each."
_STOPPED = "Thin lines that end in a cross are runs that diverged. Nothing is smoothed."
CAPTIONS = {
    "leading_row": (
        "Who leads, and by how much",
        "Each row minus the one with the highest mean, paired by question and seed, in points of the "
        "unweighted mean over benchmarks, with 95 % intervals over seeds and questions. Filled: "
        "told apart from the leading row after Holm's correction; open: not told apart. The leader "
        "is decided where no dot is open. Right: the leading mean and the differences. An arrow "
        "stands for a row far outside.",
    ),
    "main_scores": (
        "Accuracy",
        "Greedy accuracy, unweighted mean over benchmarks, in points, highest first. Dots are means "
        "over finished seeds, bars 95 % intervals over seeds and questions, the dotted line the "
        "untrained model. Intervals of two rows may overlap although their difference is clear: "
        "rows share seeds and questions. A word stands where no run has a number.",
    ),
    "paired_differences": (
        "Differences to the baselines",
        "Each method minus a baseline, paired by question and seed, in points of the unweighted mean "
        "over benchmarks; bars are 95 % intervals over seeds and questions. Filled dots differ "
        "from zero after Holm's correction per baseline, open dots do not. An arrow stands for a "
        "row far outside.",
    ),
    "rank_probabilities": (
        "How sure the order is",
        "Chance in percent of each trained row to have each rank in a repetition with new seeds and "
        "new questions, rows by expected rank. Chances below 5 percent have no number. Copies of "
        "another row and rows with a single seed are left out.",
    ),
    "question_changes": (
        "Questions gained and lost",
        "Difference in greedy accuracy of two methods on each question, mean over seeds, in points, "
        "questions sorted by it. Blue: the first method is right more often; orange: less often. "
        "The text gives the share of questions on either side.",
    ),
    "difficulty": (
        "Accuracy by difficulty",
        "Greedy accuracy over all benchmarks by the difficulty noted with each question. Points "
        "are means over finished seeds, bands their 95 % t interval (three seeds or more). "
        f"{_MANY}",
    ),
    "accuracy_progress": (
        "Accuracy against training progress",
        f"Greedy accuracy on a fixed held-out probe. {_SEEDS} {_MANY} {_STOPPED}",
    ),
    "demonstration_loss": (
        "Demonstration loss against training progress",
        "Loss on fixed held-out demonstrations (logarithmic), the other objective: where a curve rises, what "
        f"supervision taught is forgotten. {_SEEDS} {_MANY} {_STOPPED}",
    ),
    "reward_length": (
        "Reward and response length against RL step",
        "Mean reward and mean response length of the training rollouts of each RL step. Thin "
        f"lines are means over seeds step by step, thick lines a centred running mean over the "
        f"number of steps named on the axis. {_SEEDS}",
    ),
    "bridge_internals": (
        "Inside BRIDGE",
        "Norms of the adapter's gradient from demonstrations, from rewards and from rewards under "
        "the shadow weights; norm of the difference of the last two; the cooperative gain on "
        "held-out problems; distance of the shadow to the base weights; norm of the adapter. "
        "Lines are means over finished seeds. Where parts stay far apart in size, the axis is "
        "logarithmic.",
    ),
    "accuracy_wallclock": (
        "Accuracy against wall-clock",
        "Greedy accuracy on a fixed held-out probe against seconds of training, supervised stages "
        f"included, at the mean time of the seeds. {_SEEDS} {_MANY} {_STOPPED}",
    ),
    "accuracy_cost": (
        "Accuracy against cost",
        "Greedy accuracy, unweighted mean of the benchmarks, against training FLOPs and training "
        "time, both means over finished seeds; bars are 95 % intervals of the accuracy. The grey "
        "staircase is the Pareto front of the means: no method shown is both cheaper and higher. "
        "Named are its cheapest and its highest method; methods off the front are paler. The "
        "dotted line is the untrained model, which costs nothing.",
    ),
    "stage_costs": (
        "Training time by stage",
        "Time of a training job by stage, means over finished seeds, with the total at the end. "
        "Probe: held-out accuracy measured on the way, which the training time in the cost table "
        "leaves out. Other: what no stage claims, such as data loading and logging.",
    ),
}
