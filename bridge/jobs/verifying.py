"""``bridge verify``: is a published folder whole, and are its tables what its tidy tables give?

The folder may come from anybody. Its list of files is held against what lies there before any file
is opened, links are refused, and nothing outside of the folder is read. What it cannot show is who
made it: whoever changes a file can write its hash anew, so compare the hash of ``SHA256SUMS`` with
one that its author gave you.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path, PurePosixPath

from bridge.analysis.report.building import build_tables
from bridge.collect.caching import check_tidy
from bridge.store.records import file_hash
from bridge.store.schema import cut, shown

SUMS = "SHA256SUMS"
SOURCES = "sources"
"""Beside the tidy tables, all that tables are made of: claims and the papers' numbers."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_ADDED = (".git", ".gitattributes", ".cache")
"""What git, the hub and its downloads put beside the files."""


class VerifyError(ValueError):
    """A published folder that is not what it says; one sentence with the file."""


def verify(folder: Path) -> int:
    """Check a published folder; return the number of its files.

    Raises:
        VerifyError: a file is missing, changed, extra, no plain file or cannot be read, the list of
            files is damaged or leads out of the folder, or the tables are not what the tidy tables
            give.
        RecordError: the tidy tables do not fit their manifest.
    """
    try:
        return _verify(folder)
    except OSError as error:
        raise VerifyError(f"{folder} cannot be read: {cut(str(error), 300)}") from error


def _verify(folder: Path) -> int:
    listed, there = read_sums(folder), set(plain_files(folder)) - {SUMS}
    if missing := sorted(listed.keys() - there):
        raise VerifyError(f"{folder}: {shown(missing[0])} is in {SUMS}, but missing; get it again.")
    if extra := sorted(there - listed.keys()):
        raise VerifyError(f"{folder}: {shown(extra[0])} is not in {SUMS}; remove it.")
    for name, expected in listed.items():
        if file_hash(folder / name) != expected:
            raise VerifyError(f"{folder}: {shown(name)} was changed; get it again.")
    check_tidy(folder / "tidy")
    _check_tables(folder)
    return len(listed)


def read_sums(folder: Path) -> dict[str, str]:
    """The files of a published folder and their SHA-256, as ``SHA256SUMS`` lists them.

    Raises:
        VerifyError: it is missing, damaged, or names a place outside of the folder.
    """
    path, sums = folder / SUMS, dict[str, str]()
    if path.is_symlink() or not path.is_file():
        raise VerifyError(f"{path} is missing, so {folder} is no published folder.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise VerifyError(f"{path} is not UTF-8; get it again.") from None
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        found = _LINE.fullmatch(line)
        if found is None or found[2] in sums:
            raise VerifyError(f"{path}, line {number}: damaged or said twice; get it again.")
        if not _is_inside(found[2]):
            raise VerifyError(f"{path}, line {number}: {shown(found[2])} leads elsewhere.")
        sums[found[2]] = found[1]
    return sums


def plain_files(folder: Path) -> list[str]:
    """Names of all files in a folder, sorted, as ``SHA256SUMS`` writes them.

    Raises:
        VerifyError: there is a link, or something else that is neither file nor folder.
    """
    found, waiting = list[str](), [""]
    while waiting:
        top = waiting.pop()
        with os.scandir(folder / top) as there:
            entries = list(there)
        for entry in entries:
            name = top + entry.name
            if name in _ADDED:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                found.append(name)
            else:
                raise VerifyError(f"{folder}: {shown(name)} is a link or no plain file; remove it.")
    return sorted(found)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    # The second: of two ways to write a name, only the plain one is allowed.
    return not path.is_absolute() and ".." not in path.parts and str(path) == name != "."


def make_tables(folder: Path, out: Path) -> None:
    """Write the tables that a published folder's tidy tables give."""
    sources = folder / SOURCES
    # No file there: a grid of learning rates that another suite ran is not part of this one.
    grid = sources / "tune"
    build_tables(folder / "tidy", out, sources, sources / "claims.yaml", tuned_dir=grid)


def _check_tables(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        try:
            make_tables(folder, made)
        except Exception as error:
            # Anybody's files: what readers of parquet and CSV make of them is not foreseen.
            cause = cut(str(error), 300)
            raise VerifyError(f"{folder}: no tables can be made of tidy/: {cause}") from error
        names = {path.name for path in (*made.iterdir(), *(folder / "tables").glob("*"))}
        for name in sorted(names):
            mine, theirs = made / name, folder / "tables" / name
            same = mine.is_file() and theirs.is_file() and file_hash(mine) == file_hash(theirs)
            if not same:
                raise VerifyError(
                    f"{folder}: {shown(f'tables/{name}')} is not what this version of the harness "
                    "makes of tidy/; README.md names the version that it was made with."
                )
