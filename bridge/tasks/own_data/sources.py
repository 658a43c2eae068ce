"""Where the user's problems are: a file of JSON lines, a CSV file, or files of a hub data set.

A local file is named with its SHA-256 and a hub data set with its commit, so that changed data is a
changed configuration: it is refused until the suite says so (``bridge pin``), and then the runs
have another hash.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from bridge.machine.hub import HubError, snapshot
from bridge.store.records import file_hash
from bridge.store.schema import Closed
from bridge.store.strict import strict_json
from bridge.tasks.base import ProblemError

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
"""End of a hub file's name -> its format in the library ``datasets``."""

Row = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and its values by column."""


class Columns(Closed):
    """Which of the data's columns holds what. Others are not read."""

    question: str | None = None
    answer: str | None = None
    demonstration: str | None = None
    """An expert's completion, or a list of several."""
    messages: str | None = None
    """A chat: a user's turn, which is the question, and the assistant's, which is a demonstration.
    A system turn is put in front of the question."""
    id: str | None = None
    difficulty: str | None = None


class OwnSource(Closed):
    """One set of problems."""

    path: str | None = None
    """A file that ends in .jsonl or .csv; relative to the folder with ``suites/``, or absolute."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the file; ``bridge pin`` writes it."""
    repo: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    """A data set of the hub."""
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    """Its commit; a branch or a tag could move."""
    # Not strict: a recorded configuration is JSON, which has lists where this is a tuple.
    files: tuple[str, ...] = Field((), strict=False)
    """Its files, or patterns like ``main/train-*.parquet``; all of one format."""
    columns: Columns | None = None
    """Where the columns have other names than the keys of this mapping."""
    answer_after: str | None = Field(None, min_length=1)
    """The gold answer is what follows the last one of these, as ``####`` in GSM8K."""
    append_box: bool = False
    """Put the gold answer in a box behind each demonstration that has none."""

    @model_validator(mode="after")
    def _file_or_hub(self) -> OwnSource:
        if (self.path is None) == (self.repo is None):
            raise ValueError("name either a path or a repo of the hub")
        if self.repo is None and (self.revision is not None or self.files):
            raise ValueError("revision and files belong to a repo of the hub")
        if self.repo is not None and (self.revision is None or not self.files):
            raise ValueError("a repo needs its revision (a commit id) and the names of its files")
        if self.repo is not None and self.sha256 is not None:
            raise ValueError("a repo is pinned by its revision; leave sha256 out")
        ends = {Path(name).suffix for name in self.files or (self.path or "",)}
        if ends - _FORMATS.keys() or len({_FORMATS[end] for end in ends}) > 1:
            raise ValueError(f"files have to end in one of {', '.join(_FORMATS)}, all in the same")
        if self.path is not None and ends & {".parquet", ".json"}:
            raise ValueError("a local file has to end in .jsonl or .csv")
        return self

    @property
    def name(self) -> str:
        """The source in messages."""
        return str(Path(self.path)) if self.path else f"{self.repo} at {str(self.revision)[:12]}"


def check_pinned(source: OwnSource) -> None:
    """Refuse a local file that is missing, or is not the one that the suite names; what is on the
    hub is not looked up.

    Raises:
        ProblemError: one sentence with the remedy.
    """
    if source.path is None:
        return
    path = Path(source.path)
    if not path.is_file():
        raise ProblemError(f"{path}: no such file; correct its path in the suite.")
    digest = file_hash(path)
    if source.sha256 is None:
        raise ProblemError(
            f"{path}: the suite does not say the file's SHA-256, {digest}; run `bridge pin` to "
            "write it there."
        )
    if digest != source.sha256:
        raise ProblemError(
            f"{path}: the file's SHA-256 is {digest}, not the one in the suite; if the change is "
            "meant, run `bridge pin` to put the new value there."
        )


def rows_of(source: OwnSource) -> Sequence[Row]:
    """All rows of a source.

    Raises:
        ProblemError: it is not there, is not the one that was named, or cannot be read; naming the
            file and, where there is one, the line.
    """
    check_pinned(source)
    if source.path is None:
        return _hub_rows(source)
    path = Path(source.path)
    rows = list(_csv_rows(path) if path.suffix == ".csv" else _json_rows(path))
    if not rows:
        raise ProblemError(f"{path}: the file has no line; give it at least one problem.")
    return rows


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            raw = strict_json(line.decode("utf-8"))
        except (UnicodeDecodeError, ValueError) as error:
            words = " ".join(str(error).split())[:160]
            raise ProblemError(f"{where}: not a JSON object ({words}); correct it.") from None
        if not isinstance(raw, dict):
            raise ProblemError(f"{where}: not a JSON object; correct it.")
        yield where, raw


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows under the names of the first line; an empty cell is a value that is not there."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProblemError(f"{path}: not UTF-8; save the table in that encoding.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise ProblemError(f"{path}: two columns have one name; rename one.")
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(names):
                raise ProblemError(
                    f"{where}: {len(cells)} cells under {len(names)} names; put texts that hold "
                    "commas or line breaks in double quotes."
                )
            yield where, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    except csv.Error as error:
        raise ProblemError(f"{path}, line {reader.line_num}: {error}; correct it.") from None


def _hub_rows(source: OwnSource) -> Sequence[Row]:
    assert source.repo is not None and source.revision is not None
    try:
        folder = snapshot("dataset", source.repo, source.revision, source.files)
    except HubError as error:
        raise ProblemError(str(error)) from error
    found = sorted(str(p) for pattern in source.files for p in folder.glob(pattern))
    # Here and not above: it takes half a second that planning should not.
    import datasets

    try:
        kind = _FORMATS[Path(source.files[0]).suffix]
        table = datasets.load_dataset(kind, data_files=found, split="train")
        return [
            (f"{source.name}, row {i}", {k: v for k, v in row.items() if v is not None})
            for i, row in enumerate(table, 1)
        ]
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:160]
        raise ProblemError(f"{source.name} cannot be read ({cause}); fetch it again.") from error
