"""A folder of one's own and a whole suite in it: ``bridge init`` without a name, ``bridge run``.

The Snakefile, its rules and its environments stay where the package is; a project folder holds what
a person edits, ``config.yaml`` and ``suites/``, and what the runs write.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from bridge.jobs.workflow import run as run_snakemake
from bridge.plan.choices import choice_path
from bridge.plan.config import load_suite
from bridge.store.records import SHIPPED, writing
from bridge.store.schema import ConfigError


def begin_project(folder: Path) -> str:
    """Copy ``config.yaml``, the suites and the settings that they were tuned to into a folder.

    Returns:
        What to do next.

    Raises:
        ConfigError: something of that name is there already.
    """
    suites = sorted((SHIPPED / "suites").glob("*.yaml"))
    sources = [SHIPPED / "config.yaml", *suites, *_frozen_choices(suites)]
    wanted = [folder / source.relative_to(SHIPPED) for source in sources]
    if there := [path for path in wanted if path.exists()]:
        raise ConfigError(
            f"{there[0]} is there already; go on here with bridge run, or choose an empty folder."
        )
    for path, source in zip(wanted, sources, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path):
            shutil.copyfile(source, path)
    return (
        f"config.yaml and {len(suites)} suites in {folder.absolute()}.\n"
        "Next: bridge run --suite smoke"
    )


def _frozen_choices(suites: Sequence[Path]) -> list[Path]:
    """Committed choices that suites take their settings from."""
    tuned = [load_suite(path, root=SHIPPED).tuned_by for path in suites]
    paths = [choice_path(by, SHIPPED / "results") for by in tuned if by and by.frozen]
    return list(dict.fromkeys(paths))


def run_suite(suite: str, cores: str, further: Sequence[str], *, verbose: bool) -> int:
    """Run every job of a suite that is not done yet; return Snakemake's exit code.

    Args:
        cores: that Snakemake may use, a number or ``all``.
        further: arguments of Snakemake's.
        verbose: show what Snakemake says instead of our own lines.

    Raises:
        ConfigError: there is no Snakemake.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise ConfigError("Snakemake is not installed here; pip install 'bridge-harness[all]'.")
    arguments = ["--snakefile", str(SHIPPED / "Snakefile"), "--cores", cores, "--rerun-incomplete"]
    return run_snakemake([*arguments, "--config", f"suite={suite}", *further], told=not verbose)
