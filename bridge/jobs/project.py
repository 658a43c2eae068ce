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
from bridge.store.records import SHIPPED, writing
from bridge.store.schema import ConfigError


def begin_project(folder: Path) -> str:
    """Copy ``config.yaml`` and the suites into a folder; return what to do next.

    Raises:
        ConfigError: something of that name is there already.
    """
    suites = sorted((SHIPPED / "suites").glob("*.yaml"))
    wanted = [folder / "config.yaml", *(folder / "suites" / suite.name for suite in suites)]
    if there := [path for path in wanted if path.exists()]:
        raise ConfigError(
            f"{there[0]} is there already; go on here with bridge run, or choose an empty folder."
        )
    (folder / "suites").mkdir(exist_ok=True)
    for path, source in zip(wanted, (SHIPPED / "config.yaml", *suites), strict=True):
        with writing(path):
            shutil.copyfile(source, path)
    return (
        f"config.yaml and {len(suites)} suites in {folder.absolute()}.\n"
        "Next: bridge run --suite smoke"
    )


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
