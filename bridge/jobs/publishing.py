"""``bridge publish``: a suite as one folder that another person can check with ``bridge verify``.

====================  ==========================================================================
``README.md``         what it is, which code made it, how to check it; also the hub's card
``tidy/``             the tidy tables with their manifest, answers among them
``tables/``           made of ``tidy/`` and ``sources/``, so that anybody can make them again
``figures/``          as png, pdf and svg
``report.html``       the report
``sources/``          claims and papers' numbers that the tables are made of
``specs/``            ``spec.json`` of every run, paths of this machine cut to their last part
``policies/``         checkpoints with their model cards, of the rows that were asked for
``CITATION.cff``      of the folder where the command is run; its authors and its licence hold
``SHA256SUMS``        of all these and ``ro-crate-metadata.json`` and ``.zenodo.json``
====================  ==========================================================================

Of benchmarks there is no more than in the tidy tables: ids of questions and a model's answers, not
one question. Everything is drawn anew from the tidy tables, so the parts fit each other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.analysis.figures.drawing import build_figures
from bridge.analysis.report.building import CLAIMS
from bridge.analysis.report.page import build_report
from bridge.analysis.tables.published import FILES, FOLDER
from bridge.collect.caching import check_tidy
from bridge.jobs.describing import CITATION, describe, read_citation
from bridge.jobs.verifying import SOURCES, SUMS, make_tables, plain_files
from bridge.plan.choices import CHOICE
from bridge.store.records import (
    RESULTS,
    RecordError,
    RunFolder,
    file_hash,
    read_json,
    without_places,
    write_json,
    write_text,
    writing,
)


def publish(
    out: Path,
    suite: str,
    title: str,
    tidy: Path,
    *,
    runs: Path | None,
    rows: Sequence[str] = ("none",),
    partial: bool = False,
) -> int:
    """Make the folder; return the number of its files.

    Args:
        out: must not exist, or be empty; it appears when all is in it.
        tidy: the suite's tidy tables.
        runs: the suite's results folder; None where only tables are here, so that the folder gets
            neither specifications nor checkpoints.
        rows: whose checkpoints are copied: ``none``, ``all`` or names of rows.
        partial: let runs be missing or failed.

    Raises:
        RecordError: ``out`` is taken, the suite is unfinished, or a file is not what it should be.
        ConfigError: ``CITATION.cff`` is missing or names no author, title or licence.
    """
    if out.exists() and any(out.iterdir()):
        raise RecordError(f"{out} is not empty; name a new folder.")
    manifest, citation = check_tidy(tidy), read_citation(Path(CITATION))
    finished = _finished(manifest, suite, partial=partial)
    wanted = _with_policy(finished, rows)
    if runs is None and wanted:
        raise RecordError("--policies: the committed tables come without any checkpoint.")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary, "folder")
        with writing(folder):
            _copy_sources(folder, tidy, manifest)
            if runs is not None:
                for name in finished:
                    run = RunFolder(runs / "runs" / name)
                    _copy_spec(folder, name, run, manifest["runs"][name]["spec_hash"])
                    if name in wanted:
                        _copy_policy(folder / "policies" / name, run)
        _draw(folder, title)
        describe(folder, suite, title, citation, commits=manifest["commits"])
        lines = [f"{file_hash(folder / name)}  {name}\n" for name in plain_files(folder)]
        write_text(folder / SUMS, "".join(lines))
        folder.replace(out)
    return len(lines)


def _finished(manifest: Mapping[str, Any], suite: str, *, partial: bool) -> list[str]:
    """Names of the runs that have a result, which all must have unless ``partial``."""
    if manifest["suite"] != suite:
        raise RecordError(f"the tidy tables are of suite {manifest['suite']}, not of {suite}.")
    states = {name: run["status"] for name, run in manifest["runs"].items()}
    unfinished = [name for name, status in states.items() if status not in RESULTS]
    if unfinished and not partial:
        raise RecordError(
            f"run {unfinished[0]} of suite {suite} is {states[unfinished[0]]}; finish the suite, "
            "or publish what there is by --partial."
        )
    return [name for name in states if name not in unfinished]


def _with_policy(names: Sequence[str], rows: Sequence[str]) -> set[str]:
    """The runs whose checkpoints are asked for."""
    if list(rows) in (["all"], ["none"]):
        return set(names) if list(rows) == ["all"] else set()
    known = {name: name.split("/")[2] for name in names}
    if absent := sorted({*rows} - {*known.values()}):
        raise RecordError(f"--policies: no run of row '{absent[0]}' has a result.")
    return {name for name, row in known.items() if row in rows}


def _copy_sources(folder: Path, tidy: Path, manifest: Mapping[str, Any]) -> None:
    """Copy what tables, figures and report are made of."""
    names = ["manifest.json", *(f"{name}.parquet" for name in manifest["tables"])]
    names += [CHOICE] if (tidy / CHOICE).is_file() else []
    (folder / "tidy").mkdir(parents=True)
    (folder / SOURCES).mkdir()
    for path in [tidy / name for name in names]:
        shutil.copyfile(path, folder / "tidy" / path.name)
    for path in [CLAIMS, *(FOLDER / name for name in FILES)]:
        shutil.copyfile(path, folder / SOURCES / path.name)
    shutil.copyfile(CITATION, folder / CITATION)


def _copy_spec(folder: Path, name: str, run: RunFolder, spec_hash: str) -> None:
    spec = read_json(run.spec)
    if spec.get("spec_hash") != spec_hash:
        raise RecordError(f"{run.spec} is not that of the collected run; run bridge collect again.")
    write_json(folder / "specs" / f"{name}.json", without_places(spec))


def _copy_policy(target: Path, run: RunFolder) -> None:
    """Copy a run's checkpoint; one that trained nothing, or diverged, has none."""
    if read_json(run.done).get("policy") != run.policy.name:
        return
    if not run.card.is_file():
        raise RecordError(f"{run.card} is missing; run bridge evaluate of this run again.")
    target.mkdir(parents=True)
    for path in sorted(run.policy.iterdir()):
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def _draw(folder: Path, title: str) -> None:
    tidy, tables, figures = (folder / name for name in ("tidy", "tables", "figures"))
    make_tables(folder, tables)
    build_figures(tidy, figures)
    build_report(tidy, tables, figures, folder / "report.html", title=title)
