# The checked plan of the suite, and the named functions that rules ask about a run.
import os
import sys
from functools import cache
from json import dumps
from pathlib import Path

from snakemake_interface_executor_plugins.settings import DeploymentMethod

# The package beside these rules, whether or not it is installed.
sys.path.insert(
    0, str(Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent)
)
# Jobs find the Python that runs Snakemake first, also where its environment is not activated; a
# conda environment of a rule goes in front of it.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

# Freed memory stays with the process instead of going back to the kernel page by page: training
# steps of small models take a tenth less time, and the results are the same.
for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(variable, str(2**32))

from bridge.analysis.figures.captions import CAPTIONS
from bridge.collect.foreign import outdate_foreign
from bridge.collect.logs import failure_text
from bridge.store.schema import ConfigError, merge, read_yaml, typed, validate
from bridge.plan.config import (
    UserConfig,
    check_words,
    config_path,
    load_user_config,
)
from bridge.plan.fingerprint import (
    evaluate_fingerprint,
    prepare_fingerprint,
    show_fingerprint,
    train_fingerprint,
)
from bridge.methods.registry import load_method
from bridge.plan.bases import check_wheels
from bridge.plan.grid import load_plan
from bridge.jobs import warm
from bridge.jobs.tracking import start_tracking
from bridge.jobs.needs.devices import device
from bridge.jobs.needs.phases import expected_steps
from bridge.jobs.needs.report import refusals
from bridge.jobs.needs.requests import request_of
from bridge.store.columns import (
    FIGURE_FORMATS,
    NEEDED_TABLES,
    TABLE_FORMATS,
    TIDY_TABLES,
)
from bridge.store.records import SHIPPED, content_hash
from bridge.machine.gpu_slots import visible_gpus
from bridge.machine.wheels import VARIABLE as WHEELS_VARIABLE
from bridge.store.settings import TinyModel
from bridge.machine.requeue import VARIABLE as LIFE_VARIABLE, WORKFLOW_VARIABLE


def refuse(sentence):
    """A mistake is one line and no traceback."""
    print(f"bridge: {sentence}", file=sys.stderr)
    sys.exit(2)


def wheel_folder(user):
    """Where wheels with models lie, beside the package index."""
    return user.wheels or os.environ.get(WHEELS_VARIABLE)


def deployment_methods():
    """What jobs run in, besides the Python that runs Snakemake."""
    return workflow.deployment_settings.deployment_method


def checked_plan():
    """The user's choices and the plan of the suite."""
    try:
        path = config_path("snakemake")
        load_user_config(path)
        raw = read_yaml(path)
        if not workflow.remote_exec:
            check_words(sys.argv)
        # Snakemake leaves what is nested inside a value of --config as text.
        merge(raw, typed(workflow.config_settings.overwrite_config))
        user = validate(UserConfig, raw, "--config")
        plan = load_plan(
            user.suite,
            root=Path(),
            overrides=user.overrides,
            cached=user.source == "cached",
        )
        if (
            DeploymentMethod.APPTAINER in deployment_methods()
            and user.container is None
        ):
            raise ConfigError(
                "config.yaml: container: name the image that jobs shall run in; containers/bridge.def "
                "makes one."
            )
        refused = [] if user.device is None else refusals(plan, device(user.device))
        if sentences := list(refused):
            raise ConfigError("\nbridge: ".join(sentences))
        if user.source == "results" and not workflow.remote_exec:
            check_wheels(plan, Path("results"), wheel_folder(user))
        return user, plan
    except ConfigError as error:
        refuse(error)


@cache
def on_processor():
    """Whether this machine makes the runs itself and has no GPU for them."""
    elsewhere = workflow.non_local_exec or workflow.remote_exec
    return not elsewhere and not visible_gpus()


USER, PLAN = checked_plan()
if not workflow.remote_exec and (stale := PLAN.rows_tuned_by_other_code()):
    more = f" and {len(stale) - 3} more rows" if len(stale) > 3 else ""
    print(
        f"bridge: the settings of {', '.join(stale[:3])}{more} were tuned by other code than this; "
        f"tune again with suite={PLAN.suite.tuned_by.suite} to be sure.",
        file=sys.stderr,
    )
if USER.source == "results" and not workflow.remote_exec:
    outdate_foreign(PLAN, Path("results", PLAN.name, "tidy"))
if (
    USER.source == "results"
    and on_processor()
    and (released := sum(not isinstance(s.model_config, TinyModel) for s in PLAN.runs))
):
    print(
        f"bridge: no GPU can be seen: {released} of {len(PLAN.runs)} runs are for the processor.",
        file=sys.stderr,
    )
RUNS = {(s.model, s.dataset, s.label, str(s.seed)): s for s in PLAN.runs}
# Jobs are told overrides through the environment, not in params: there, any override would rerun
# every job, while the hashes rerun only what it changes.
os.environ.update(BRIDGE_OVERRIDES=dumps(USER.overrides))
os.environ[WORKFLOW_VARIABLE] = "1"
if folder := wheel_folder(USER):
    os.environ[WHEELS_VARIABLE] = folder
# A job of SLURM's that is asked to stop may ask for another turn; what a person started may not.
if workflow.remote_exec and "SLURM_JOB_ID" in os.environ:
    # The Snakemake that SLURM starts knows how often it did; the one in the job's step does not.
    os.environ.setdefault(LIFE_VARIABLE, os.environ.get("SLURM_RESTART_COUNT", "0"))

RUN = "results/{suite}/runs/{model}/{dataset}/{method}/seed{seed}"
FIGURES = expand(
    "figures/{suite}/{name}.{ext}",
    suite=PLAN.name,
    name=list(CAPTIONS),
    ext=FIGURE_FORMATS,
)
REPORT = f"results/{PLAN.name}/report.html"
CHOICE = (
    [f"results/{PLAN.name}/tidy/choice.json"]
    if PLAN.suite.trials and USER.source == "results"
    else []
)


def shown_tidy():
    """Names of the tidy tables to show; a committed folder may leave the last two out."""
    if USER.source != "cached":
        return TIDY_TABLES
    folder = Path("results/cached", PLAN.name)
    return [
        name
        for name in TIDY_TABLES
        if name in NEEDED_TABLES or (folder / f"{name}.parquet").is_file()
    ]


def tries_rates():
    """Whether the suite is a grid of learning rates: several for whatever it trains."""
    tried = {}
    for spec in PLAN.runs:
        rates = (spec.training.lr_sft, spec.training.lr_rl)
        tried.setdefault((spec.model, spec.dataset, spec.method), set()).add(rates)
    return all(len(rates) > 1 for rates in tried.values())


def table_names():
    """Names of the tables that the suite has."""
    names = ["main", "differences", "ranks", "cost", "claims"]
    if PLAN.suite.evaluation.n_samples:
        names.append("sampled")
    if "answers" in shown_tidy():
        names.append("clusters")
    if "contamination" in shown_tidy():
        names.append("contamination")
    if PLAN.suite.trials:
        names.append("trials")
    elif PLAN.suite.tuned_by:
        names.append("tuned")
    elif tries_rates() or (SHIPPED / "results/cached/tune/runs.parquet").is_file():
        names.append("rates")
    return names


TABLE_NAMES = table_names()
TABLES = expand(
    "results/{suite}/tables/{name}.{ext}",
    suite=PLAN.name,
    name=TABLE_NAMES,
    ext=TABLE_FORMATS,
)


def one_of(names):
    """Regular expression that matches these names only."""
    return "|".join(sorted(re.escape(str(name)) for name in names)) or "(?!)"


wildcard_constraints:
    suite=one_of([PLAN.name]),
    model=one_of({s.model for s in PLAN.runs} | {*PLAN.made_models}),
    dataset=one_of({s.dataset for s in PLAN.runs}),
    method=one_of({s.label for s in PLAN.runs}),
    seed=one_of({s.seed for s in PLAN.runs}),


def run_of(wildcards):
    """The run that the wildcards name."""
    key = (wildcards.model, wildcards.dataset, wildcards.method, wildcards.seed)
    if key not in RUNS:
        raise WorkflowError(f"suite '{PLAN.name}' has no run {'/'.join(key)}")
    return RUNS[key]


def once_per_row(function):
    """Ask a function of a run only once for the seeds of a row, which share the answer."""
    known = {}

    def answer(run):
        row = (run.model, run.dataset, run.label)
        if row not in known:
            known[row] = function(run)
        return known[row]

    return answer


# -- inputs


def base_of_run(wildcards):
    """The base model, where the workflow makes it."""
    model = run_of(wildcards).base_name
    return (
        f"results/{PLAN.name}/models/{model}/base.json"
        if model in PLAN.made_models
        else []
    )


def done_files(runs):
    return sorted({run.folder(Path("results")).done.as_posix() for run in runs})


def all_scores(wildcards):
    """Scores of every run of the suite."""
    return [s.folder(Path("results")).scores.as_posix() for s in PLAN.runs]


def tidy_tables(wildcards):
    """The tidy tables to show: of the runs here, or the committed ones."""
    folder = tidy_folder(wildcards)
    if USER.source == "cached" and not Path(folder, "runs.parquet").is_file():
        have = sorted(
            p.parent.name for p in Path("results/cached").glob("*/runs.parquet")
        )
        refuse(
            f"suite '{PLAN.name}' has no tables in {folder}; run it and copy them with bridge "
            f"cache --suite {PLAN.name}, or name one that has: {', '.join(have) or 'none'}."
        )
    files = [f"{folder}/{name}.parquet" for name in shown_tidy()]
    # File times mean nothing in a clone, so committed tables count as old.
    return [ancient(f) for f in files] if USER.source == "cached" else files


def rate_table(wildcards):
    """The table of learning rates of a suite that tries some."""
    if not tries_rates():
        refuse(
            f"suite '{PLAN.name}' is no grid of learning rates; add --config suite=tune"
        )
    return f"results/{PLAN.name}/tables/rates.md"


# -- params: only what can change a result
#
# Each code fingerprint holds those of the jobs before it. Input files alone would not do: a job that
# fails after an edit loses its old output, and Snakemake makes a missing output again only for a
# later job that has to run itself.


def base_hash(wildcards):
    return content_hash(PLAN.made_models[wildcards.model].model_dump(mode="json"))


def base_code(wildcards):
    return prepare_fingerprint(PLAN.made_models[wildcards.model])


def train_hash(wildcards):
    return run_of(wildcards).train_hash


def train_code(wildcards):
    return code_of_training(run_of(wildcards))


def spec_hash(wildcards):
    return run_of(wildcards).spec_hash


def evaluate_code(wildcards):
    return code_of_scores(run_of(wildcards))


def collect_code(wildcards):
    return code_of_collecting()


def tables_code(wildcards):
    return code_of_showing("tables")


def figures_code(wildcards):
    return code_of_showing("figures")


def report_code(wildcards):
    return code_of_showing("report")


def tidy_folder(wildcards):
    cached = USER.source == "cached"
    return f"results/cached/{PLAN.name}" if cached else f"results/{PLAN.name}/tidy"


@once_per_row
def code_of_training(run):
    base = PLAN.made_models.get(run.base_name)
    before = [prepare_fingerprint(base)] if base else []
    return content_hash([*before, train_fingerprint(run)])


@once_per_row
def code_of_scores(run):
    return content_hash([code_of_training(run), evaluate_fingerprint(run)])


@cache
def code_of_collecting():
    return content_hash([show_fingerprint("collect"), *map(code_of_scores, PLAN.runs)])


def code_of_showing(job):
    before = [] if USER.source == "cached" else [PLAN.hash, code_of_collecting()]
    return content_hash([*before, show_fingerprint(job)])


# -- scheduling


def ranks(wildcards):
    """Processes that train a run together."""
    return run_of(wildcards).training.sharding.ranks


def training_gpus(wildcards):
    """GPU slots of a training run: one for each of its processes."""
    return gpus(wildcards) * ranks(wildcards)


def training_threads(wildcards):
    """Cores of a training run, all its processes together."""
    return USER.threads * ranks(wildcards)


def gpus(wildcards):
    """GPU slots of a run."""
    return gpus_of(run_of(wildcards).model_config)


def gpus_of(model):
    """Tiny models train on CPU cores; others too, on a machine that has no GPU."""
    return 0 if isinstance(model, TinyModel) or on_processor() else 1


def base_gpus(wildcards):
    """GPU slots of the job that makes a base model."""
    return gpus_of(PLAN.made_models[wildcards.model])


def base_memory_mb(wildcards):
    """A model of a package is decoded whole and may be warmed up."""
    tiny = isinstance(PLAN.made_models[wildcards.model], TinyModel)
    return 2000 if tiny else 8000


def length(wildcards):
    """Priority of a training run: the long ones first, so that no core idles at the end."""
    return length_of(run_of(wildcards))


@once_per_row
def length_of(run):
    method = load_method(run.method)
    planned = method(method.Options.model_validate(run.method_options), run.training)
    steps = expected_steps(planned).items()
    # Rough shares of a step: rollouts cost more than an SFT batch, shadow weights half as much again.
    return 1 + round(
        sum(n * (1 if phase.kind == "sft" else 4) for phase, n in steps)
        * (1.5 if planned.uses_shadow else 1)
    )


def warm_start_pays():
    """Whether jobs should fork from a process that has imported the libraries: bridge/jobs/warm.py."""
    if workflow.non_local_exec or USER.source == "cached" or sys.platform != "linux":
        return False
    if deployment_methods():
        return False
    left = sum(not run.folder(Path("results")).scores.is_file() for run in PLAN.runs)
    return left > 2 and on_processor()
