"""What a suite file (``suites/*.yaml``) and ``config.yaml`` can hold.

A suite describes a grid of runs; ``config.yaml`` chooses the suite and overrides parts of it.
Nothing here imports torch: planning works on a bare machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bridge.store.records import ROOT
from bridge.store.schema import (
    Closed,
    ConfigError,
    Count,
    Name,
    Seed,
    SuiteName,
    Threads,
    check_suite_name,
    cut,
    merge,
    read_yaml,
    validate,
)
from bridge.store.settings import EvaluationConfig, ModelConfig, PackageModel, TrainingConfig
from bridge.store.strict import strict_yaml

SEEDS_OF_A_WORLD = 100
"""The run seed of seed s in world w is this times w, plus s."""
World = Annotated[int, Field(ge=1, le=1000)]
Tracker = Literal["trackio", "wandb", "tensorboard", "mlflow"]


class DatasetConfig(Closed):
    """A problem family with its options."""

    family: Name
    """File in ``bridge/tasks/``, or a file, module or entry point of yours; see
    ``docs/how-to/add-a-method.md``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the family, see the ``Options`` class of its file in ``bridge/tasks/``."""
    reward: str | None = Field(None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """``package.module:function`` beside ``config.yaml``, which judges answers instead of the
    comparison with the gold answer; see ``docs/how-to/your-own.md``."""
    max_response_tokens: Count | None = None
    """Longest answer to these questions, in training and evaluation; the suite's where left out.
    What a row says itself comes before it."""


class MethodConfig(Closed):
    """One row of the tables: a method with its options, under its own label."""

    method: Name | None = None
    """File in ``bridge/methods/``; the label itself when left out. Or a file, module or
    entry point of yours; see ``docs/how-to/add-a-method.md``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the method, see its page in ``docs/methods/``."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the shared training configuration, for ablations."""


class GridBlock(Closed):
    """The product of these lists is trained and evaluated."""

    models: tuple[Name, ...] = Field(min_length=1)
    """Names of the suite's models."""
    datasets: tuple[Name, ...] = Field(min_length=1)
    """Names of the suite's data sets."""
    methods: tuple[Name, ...] = Field(min_length=1)
    """Rows: labels of ``methods``, or files in ``bridge/methods/``."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    """Training seeds; an interval needs at least two."""
    worlds: tuple[World, ...] = ()
    """Worlds to draw anew, each with every seed: weights and misconceptions of the tiny base model,
    training problems and demonstrations. Empty: the model and the data set as they are declared."""

    @model_validator(mode="after")
    def _worlds_have_room(self) -> GridBlock:
        if self.worlds and max(self.seeds) >= SEEDS_OF_A_WORLD:
            raise ValueError(f"with worlds, seeds are below {SEEDS_OF_A_WORLD}")
        return self

    @property
    def replicates(self) -> list[tuple[int, int | None]]:
        """Seed and world of each run of a row; seed 203 is seed 3 in world 2."""
        if not self.worlds:
            return [(seed, None) for seed in self.seeds]
        return [(SEEDS_OF_A_WORLD * w + s, w) for w in self.worlds for s in self.seeds]


class Trials(Closed):
    """Settings that every row of the suite tries, see :mod:`bridge.plan.trials`."""

    count: int = Field(12, ge=2, le=100)
    """Trials of each row."""
    rates: tuple[float, float] = (3e-5, 1e-3)
    """Range of both learning rates, drawn evenly on a log scale."""
    seed: Seed = 0
    """Of the draw."""

    @model_validator(mode="after")
    def _rates_rise(self) -> Trials:
        if not 0 < self.rates[0] < self.rates[1]:
            raise ValueError("rates are a lower and a higher one, both above 0")
        return self


class TunedBy(Closed):
    """Where each row's tuned settings come from, see :mod:`bridge.plan.choices`."""

    suite: SuiteName
    """A suite with ``trials`` of the same rows, models and data sets."""
    frozen: bool = True
    """Read the committed choice in ``results/cached``; false: the one of the trials run here."""


class Suite(Closed):
    """One grid of runs."""

    title: str = Field(min_length=1, max_length=200)
    """Heading of the report."""
    models: dict[Name, ModelConfig]
    """Base models by name."""
    datasets: dict[Name, DatasetConfig]
    """Training sets with their benchmarks, by name."""
    training: TrainingConfig
    """The trainer's knobs, the same for every row."""
    evaluation: EvaluationConfig
    """How finished policies are measured."""
    methods: dict[Name, MethodConfig] = Field(default_factory=dict)
    """Rows whose label is not a method's own name, or that have options."""
    train_on_benchmarks: tuple[Name, ...] = ()
    """Benchmarks whose questions a training set may hold; without being named here such a suite is
    refused. The table of contamination counts them all the same."""
    trials: Trials | None = None
    """Makes a suite of tuning trials out of the rows of its grid."""
    tuned_by: TunedBy | None = None
    """Takes the settings of each row from the outcome of such a suite."""
    audit: bool = False
    """Whether rows may set ``training.audit``, which switches known bugs on."""
    grid: tuple[GridBlock, ...] = Field(min_length=1)
    """Blocks of runs, added up."""

    @model_validator(mode="after")
    def _tries_or_uses(self) -> Suite:
        if self.trials and self.tuned_by:
            raise ValueError("a suite either has trials or is tuned_by one that has")
        return self

    @model_validator(mode="after")
    def _folders_differ(self) -> Suite:
        """Names are folders, and some file systems do not tell letters' case apart."""
        for kind, names in (
            ("models", self.models),
            ("datasets", self.datasets),
            ("methods", self.methods),
        ):
            seen: dict[str, str] = {}
            for name in names:
                if (twin := seen.setdefault(name.lower(), name)) != name:
                    raise ValueError(
                        f"{kind}: '{twin}' and '{name}' differ in letters' case only, so some "
                        "file systems keep them in one folder; rename one"
                    )
        return self

    @model_validator(mode="after")
    def _names_say_warm_up(self) -> Suite:
        """Every table shows a model's name, and a warm-up must not be overlooked in any."""
        for name, model in self.models.items():
            if isinstance(model, PackageModel) and model.warm_up and "warm" not in name:
                raise ValueError(
                    f"models.{name}: a model with a warm_up needs 'warm' in its name, which every "
                    f"table shows; call it {name}-warm"
                )
        return self


class UserConfig(Closed):
    """``config.yaml``: what a user edits."""

    suite: SuiteName
    """Name of a file in ``suites/``."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Merged over the suite, key by key."""
    threads: Threads = 1
    """Threads of one training or evaluation job."""
    device: Name | None = None
    """A GPU of ``bridge/jobs/needs/devices.yaml``; a plan with a run that cannot fit is refused."""
    tracking: Tracker | None = None
    """Where ``bridge track`` sends what runs log while the workflow works; see
    ``docs/how-to/tracking.md``. Changes no run and is in no hash."""
    wheels: str | None = None
    """Folder with wheels that hold models, looked into before the package index."""
    container: str | None = Field(None, min_length=1)
    """Image that jobs run in with ``--software-deployment-method apptainer``: a file made from
    ``containers/bridge.def``, or an address like ``docker://...``."""
    source: Literal["results", "cached"] = "results"
    """Tidy tables behind tables and figures: of the runs here, or committed in results/cached."""


def suite_file(name: str, root: Path) -> Path:
    """The file of a suite; in ``suites/`` where there is none."""
    studies = sorted(root.glob(f"studies/*/suites/{name}.yaml"))
    path = root / "suites" / f"{name}.yaml"
    return studies[0] if studies and not path.is_file() else path


def load_suite(
    path: Path, overrides: dict[str, Any] | None = None, *, root: Path = Path()
) -> Suite:
    """Read a suite file, merge overrides over it and check it.

    ``extends: other`` puts the file over another suite as overrides are put over it: mappings key
    by key, lists replaced. One level only, so that a row never hides in a third file.

    Args:
        root: where the suite that the file extends is looked for, see :func:`suite_file`.

    Raises:
        ConfigError: naming the file, the key and, for an unknown key, the nearest valid one.
    """
    raw = read_yaml(path)
    if "extends" in raw:
        raw = _extended(path, raw, root)
    suite = validate(Suite, raw, path)
    if overrides:
        merge(raw, overrides)
        suite = validate(Suite, raw, f"overrides of {path}", "overrides")
    return suite


def _extended(path: Path, raw: dict[str, Any], root: Path) -> dict[str, Any]:
    """The suite that a file extends, with the file merged over it."""
    name, own = raw["extends"], {key: value for key, value in raw.items() if key != "extends"}
    try:
        base_path = suite_file(check_suite_name(name), root)
    except (TypeError, ConfigError):
        raise ConfigError(f"{path}: extends: name one other suite, for instance matrix.") from None
    base = read_yaml(base_path)
    if "extends" in base:
        raise ConfigError(
            f"{path}: extends: {name} extends a suite itself, and only one level is allowed; name "
            "one that stands on its own."
        )
    validate(Suite, base, base_path)
    if "title" not in own:
        raise ConfigError(f"{path}: title: this key is required; a title is not inherited.")
    merge(base, own)
    return base


def config_path(program: str = "bridge") -> Path:
    """``config.yaml`` of the current folder: the repository's, or one that ``bridge init`` made.

    Raises:
        ConfigError: it is another folder; with the one to go to, where that is known.
    """
    path = Path("config.yaml")
    if not path.is_file():
        here = Path.cwd()
        above = [folder for folder in (*here.parents, ROOT) if (folder / path).is_file()]
        where = (
            f"run {program} in the repository's folder: cd {above[0]}"
            if above
            else "make a project folder here with bridge init, or go to one"
        )
        raise ConfigError(f"no config.yaml in {here}; {where}.")
    return path


def check_words(words: Sequence[str]) -> None:
    """Refuse overrides on a command line that say a key twice: Snakemake takes the last in silence.

    Raises:
        ConfigError: with the key.
    """
    for word in words:
        name, _, text = word.partition("=")
        try:
            _ = strict_yaml(text) if name == "overrides" else None
        except ValueError as error:
            raise ConfigError(f"--config overrides: {cut(str(error), 300)}.") from None


def load_user_config(path: Path) -> UserConfig:
    """Read ``config.yaml``."""
    return validate(UserConfig, read_yaml(path), path)
