"""``bridge cache``: the tidy tables of a finished suite, copied to where they are committed.

``results/cached/<suite>/`` gets the tables that tables, figures and report are drawn from, and a
manifest with the SHA-256 of each, the commits of the runs, and the SHA-256 of every table that the
run wrote from them (``shown``), so that anyone can prove that a rebuild from the copy gives the
same bytes. Tables that also read files which change after a run are left out of that.
``dynamics`` keeps all its rows: a copy of the default suite stays far below the limit without
thinning, and one that does not is refused. Files are replaced one by one and nothing is deleted.
A choice beside the tables, of tuning trials or of a suite tuned by some, is copied with them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from bridge.plan.choices import CHOICE
from bridge.store.records import (
    RecordError,
    cached_folder,
    file_hash,
    suite_folder,
    write_json,
    writing,
)
from bridge.store.schema import Name, check_name
from bridge.store.shapes import Shape, read_record

LIMIT_BYTES = 5_000_000
LATER_FILES = ("claims", "rates")
"""Tables that also read claims.yaml or the committed grid of learning rates."""
ANSWERS, FROM_ANSWERS = "answers", ("clusters",)
"""The largest table, which a copy may lack, and what is made of it."""


def _check_run_name(name: str) -> str:
    *names, seed = name.split("/")
    if len(names) != 3:
        raise ValueError("it should be like model/dataset/method/seed0")
    for part in (*names, seed):
        check_name(part)
    return name


RunName = Annotated[str, AfterValidator(_check_run_name)]


class _Collected(Shape):
    spec_hash: str
    status: str


class _Manifest(Shape):
    remedy: ClassVar[str] = "run bridge collect again"
    suite: str
    tables: dict[Name, str]
    commits: list[str]
    runs: dict[RunName, _Collected]


def cache_suite(results: Path, suite: str, *, with_answers: bool = True) -> int:
    """Copy the tidy tables of a suite to its committed folder; return their size in bytes.

    Args:
        with_answers: also the texts that were answered, and so the tables and the part of the
            report that show them.

    Raises:
        RecordError: a table is missing, was changed after it was collected, all of them are larger
            than what is committed, or the folder holds a table that would not be replaced.
    """
    tidy, shown = (suite_folder(results, suite) / name for name in ("tidy", "tables"))
    manifest = check_tidy(tidy)
    tables = sorted(shown.glob("*.*"))
    if not tables:
        raise RecordError(f"{shown} has no tables; run snakemake --cores all figures first.")
    later = {*LATER_FILES}
    if not with_answers:
        manifest["tables"] = {k: v for k, v in manifest["tables"].items() if k != ANSWERS}
        later |= {*FROM_ANSWERS}
    size = sum((tidy / f"{name}.parquet").stat().st_size for name in manifest["tables"])
    if size > LIMIT_BYTES:
        remedy = "add --without-answers, or commit" if with_answers else "commit"
        raise RecordError(
            f"{tidy} holds {size / 1e6:.1f} MB, more than the {LIMIT_BYTES / 1e6:.0f} MB that are "
            f"committed per suite; {remedy} it elsewhere."
        )
    folder = cached_folder(results, suite)
    left = sorted({p.stem for p in folder.glob("*.parquet")} - manifest["tables"].keys())
    if left:
        raise RecordError(
            f"{folder} holds {', '.join(left)}, which this copy has not; delete the old copy first."
        )
    hashes = {path.name: file_hash(path) for path in tables if path.stem not in later}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest["tables"]:
            _copy(tidy / f"{name}.parquet", folder / f"{name}.parquet")
        if (tidy / CHOICE).is_file():
            _copy(tidy / CHOICE, folder / CHOICE)
    write_json(folder / "manifest.json", manifest | {"shown": hashes})
    return size


def check_tidy(tidy: Path) -> dict[str, Any]:
    """The manifest of a folder of tidy tables, all of which are as they were collected.

    Raises:
        RecordError: a table is missing or was changed, or the manifest is damaged.
    """
    manifest = read_record(tidy / "manifest.json", _Manifest)
    for name, expected in manifest["tables"].items():
        path = tidy / f"{name}.parquet"
        if not path.is_file() or file_hash(path) != expected:
            raise RecordError(f"{path} is not what was collected; run bridge collect again.")
    return manifest


def _copy(source: Path, target: Path) -> None:
    """Replace a file by a copy of another; a reader sees the old or the new one."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
