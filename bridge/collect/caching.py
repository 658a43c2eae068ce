"""``bridge cache``: the tidy tables of a finished suite, copied to where they are committed.

``results/cached/<suite>/`` gets the tables that tables, figures and report are drawn from, and a
manifest with the SHA-256 of each, the commits of the runs, and the SHA-256 of every table that the
run wrote from them (``shown``), so that anyone can prove that a rebuild from the copy gives the
same bytes. Tables that also read files which change after a run are left out of that.
``dynamics`` keeps all its rows: a copy of the default suite stays far below the limit without
thinning, and one that does not is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bridge.store.records import RecordError, file_hash, read_json, suite_folder, write_json

LIMIT_BYTES = 5_000_000
LATER_FILES = ("claims", "rates")
"""Tables that also read claims.yaml or the committed grid of learning rates."""


def cache_suite(results: Path, suite: str, folder: Path) -> int:
    """Copy the tidy tables of a suite to ``folder``; return their size in bytes.

    Raises:
        RecordError: a table is missing, was changed after it was collected, or all of them are
            larger than what is committed.
    """
    tidy, shown = (suite_folder(results, suite) / name for name in ("tidy", "tables"))
    manifest = read_json(tidy / "manifest.json")
    tables = sorted(shown.glob("*.*"))
    if not tables:
        raise RecordError(f"{shown} has no tables; run snakemake --cores all figures first.")
    for name, expected in manifest["tables"].items():
        path = tidy / f"{name}.parquet"
        if not path.is_file() or file_hash(path) != expected:
            raise RecordError(f"{path} is not what was collected; run bridge collect again.")
    size = sum((tidy / f"{name}.parquet").stat().st_size for name in manifest["tables"])
    if size > LIMIT_BYTES:
        raise RecordError(
            f"{tidy} holds {size / 1e6:.1f} MB, more than the {LIMIT_BYTES / 1e6:.0f} MB that are "
            "committed per suite; commit it elsewhere."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in manifest["tables"]:
        shutil.copyfile(tidy / f"{name}.parquet", folder / f"{name}.parquet")
    hashes = {path.name: file_hash(path) for path in tables if path.stem not in LATER_FILES}
    write_json(folder / "manifest.json", manifest | {"shown": hashes})
    return size
