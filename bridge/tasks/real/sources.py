"""Real sets of problems: read from the hub at a pinned commit or from a folder, then checked.

``manifest.yaml`` says for each set how many rows it has, the SHA-256 of its file, its licence and
its origin. Both ways end in the same rows: gold answers are repaired by recorded rules
(:mod:`bridge.tasks.real.repairs`), rows without a gold answer are dropped and counted, and a hash
of all problems with their golds, free of order and spacing, must be the manifest's.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bridge.machine.hub import HubError, snapshot
from bridge.store.records import file_hash
from bridge.store.schema import Closed, ConfigError, Name, read_yaml
from bridge.tasks.base import ProblemError
from bridge.tasks.real.choices import in_fixed_order
from bridge.tasks.real.hub_rows import READERS
from bridge.tasks.real.identity import identity
from bridge.tasks.real.repairs import repaired

MANIFEST = Path(__file__).with_name("manifest.yaml")
DATA_ROOT_VARIABLE = "BRIDGE_DATA_ROOT"
LONG_ANSWER_TOKENS = 5000
"""Greedy pass@1 with 5,000 new tokens is the protocol of the BRIDGE paper."""
MANY_SAMPLES = 32
"""It reports avg@32 and pass@32."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class HubSource(Closed):
    """Where a set lies on the hub."""

    repo: str
    revision: str | None = Field(pattern="^[0-9a-f]{40}$")
    """None where no commit could be verified: an option must then name one."""
    files: tuple[str, ...]
    format: Literal["parquet", "json", "csv"]
    reader: str
    """Function of :mod:`bridge.tasks.real.hub_rows` that reads its columns."""


class Entry(Closed):
    """What the manifest says of one set."""

    file: str
    """Path below the data root."""
    rows: int
    """Rows of the origin, before any is dropped."""
    sha256: Sha256 | None
    """Of the file in a data root; None where nobody has checked a copy."""
    content_sha256: Sha256 | None
    """Of the usable problems with their golds, see :func:`content_hash`; None as above."""
    licence: str
    origin: str
    choices: bool = False
    """Whether these are multiple-choice questions, see :mod:`bridge.tasks.real.choices`."""
    without: Name | None = None
    """Set whose problems are taken out of the hub's copy."""
    hub: HubSource | None


class DataOptions(Closed):
    """Where real data comes from; part of the options of every real family."""

    data_root: str | None = None
    """Folder with one folder per set; BRIDGE_DATA_ROOT if that is set, else the hub."""
    # Not strict: a recorded configuration is JSON, which has lists where this is a tuple.
    revisions: tuple[Annotated[str, Field(pattern="^[a-z0-9_]+@[0-9a-f]{40}$")], ...] = Field(
        (), strict=False
    )
    """``set@commit`` for sets whose commit the manifest does not pin, or to pin another."""


@dataclass(frozen=True)
class Item:
    """One row of a real set."""

    id: str
    problem: str
    answer: str
    """Gold answer, repaired."""
    difficulty: int
    """Level of the origin; 0 where it gives none."""
    solutions: tuple[str, ...]
    """Worked solutions or traces, as the origin wrote them."""

    @property
    def identity(self) -> str:
        """Equal for copies of one problem in different sets."""
        return identity(self.problem)


@dataclass(frozen=True)
class ProblemSet:
    """A checked set."""

    name: str
    items: tuple[Item, ...]
    repaired: Mapping[str, int]
    """Name of a rule -> golds it rewrote."""
    dropped: tuple[str, ...]
    """Ids of the rows without a gold answer."""


@functools.cache
def manifest() -> dict[str, Entry]:
    """Name of a set -> what is known of it."""
    raw = read_yaml(MANIFEST)
    # JSON mode: YAML has lists where the schema has tuples.
    return {name: Entry.model_validate_json(json.dumps(entry)) for name, entry in raw.items()}


def load_set(name: str, options: DataOptions) -> ProblemSet:
    """Return a set, from the data root where one is named, else from the hub.

    Raises:
        ProblemError: a file is missing or not the one the manifest knows, the hub does not give
            the set, or its rows are not the expected ones; one sentence with the remedy.
    """
    root = options.data_root or os.environ.get(DATA_ROOT_VARIABLE)
    pins = dict(pin.split("@") for pin in options.revisions)
    return _load(name, root, pins.get(name))


def check_files(names: Sequence[str], options: DataOptions, where: str) -> None:
    """Refuse sets without their file in the data root, or without a data root and not on the hub;
    what is on the hub is not looked up.

    Raises:
        ConfigError: naming the set and the file.
    """
    root = options.data_root or os.environ.get(DATA_ROOT_VARIABLE)
    for name in names:
        entry = manifest()[name]
        path = Path(root or "") / entry.file
        if not root and entry.hub is None:
            raise ConfigError(f"{where}: {_not_on_hub(name, entry)}")
        if root and not path.is_file():
            raise ConfigError(
                f"{where}: the set {name} is missing: no file {path}; put it there (docs/data.md "
                "says where it comes from), or name no data root to load it from the hub."
            )
        if root and entry.sha256 not in (None, digest := file_hash(path)):
            raise ConfigError(f"{where}: {_another_file(path, digest, entry)}")


def content_hash(items: Sequence[Item]) -> str:
    """SHA-256 of all problems with their golds, whatever their order and spacing."""
    lines = sorted(f"{item.identity} {item.answer}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def _load(name: str, root: str | None, pin: str | None) -> ProblemSet:
    entry = manifest()[name]
    where, raw = _from_folder(name, entry, root) if root else _from_hub(name, entry, pin)
    if len(raw) != entry.rows and not (entry.without and not root):
        raise ProblemError(
            f"{name}: {where} has {len(raw)} rows where {entry.rows} are expected; it is another "
            "version of this set."
        )
    found = _normalised(name, raw, choices=entry.choices)
    if not root and entry.without:
        known = {item.identity for item in _load(entry.without, root, None).items}
        kept = tuple(item for item in found.items if item.identity not in known)
        found = ProblemSet(name, kept, found.repaired, found.dropped)
    if entry.content_sha256 is not None and content_hash(found.items) != entry.content_sha256:
        raise ProblemError(
            f"{name}: the problems or gold answers in {where} are not those that the manifest "
            f"records ({len(found.items)} usable rows); use the copy named in docs/data.md."
        )
    return found


def _from_folder(name: str, entry: Entry, root: str) -> tuple[str, list[dict[str, Any]]]:
    path = Path(root) / entry.file
    if not path.is_file():
        raise ProblemError(
            f"{name}: {path} is missing; put the set there (docs/data.md says where it comes "
            "from), or name no data root to load it from the hub."
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if entry.sha256 is not None and digest != entry.sha256:
        raise ProblemError(_another_file(path, digest, entry))
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    # Not splitlines: some problems hold other line separators of Unicode inside a string.
    return str(path), [json.loads(line) for line in text.split("\n") if line.strip()]


def _from_hub(name: str, entry: Entry, pin: str | None) -> tuple[str, list[dict[str, Any]]]:
    hub = entry.hub
    if hub is None:
        raise ProblemError(_not_on_hub(name, entry))
    revision = pin or hub.revision
    if revision is None:
        raise ProblemError(
            f"{name}: no commit of dataset {hub.repo} is pinned; look one up at "
            f"https://huggingface.co/datasets/{hub.repo}/commits/main and add "
            f"'{name}@<commit>' to the option revisions, or set data_root."
        )
    try:
        folder = snapshot("dataset", hub.repo, revision, hub.files)
    except HubError as error:
        raise ProblemError(f"{name}: {error}") from error
    files = sorted(str(p) for pattern in hub.files for p in folder.glob(pattern))
    where = f"dataset {hub.repo} at {revision[:12]}"
    # Here and not above: it takes half a second that planning should not.
    import datasets

    try:
        table = datasets.load_dataset(hub.format, data_files=files, split="train")
        reader = READERS[hub.reader]
        return where, [reader(row, f"{name}/{i}") for i, row in enumerate(table)]
    except KeyError as error:
        raise ProblemError(
            f"{name}: {where} has no column {error}; it is another version of this set."
        ) from error
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:160]
        raise ProblemError(f"{name}: {where} cannot be read ({cause}); fetch it again.") from error


def _another_file(path: Path, digest: str, entry: Entry) -> str:
    return (
        f"{path}: its SHA-256 is {digest}, not {entry.sha256} as in the manifest; fetch the file "
        "again."
    )


def _not_on_hub(name: str, entry: Entry) -> str:
    return (
        f"the set {name} is not on the hub; set the option data_root, or {DATA_ROOT_VARIABLE}, to "
        f"a folder with {entry.file} (docs/data.md says where it comes from)."
    )


def _normalised(name: str, raw: Sequence[Mapping[str, Any]], *, choices: bool) -> ProblemSet:
    items: list[Item] = []
    rules: Counter[str] = Counter()
    dropped: list[str] = []
    for row in raw:
        answer, applied = repaired(row["answer"])
        if not answer:
            dropped.append(row["id"])
            continue
        rules.update(applied)
        problem = row["problem"].strip()
        if choices:
            problem, answer = in_fixed_order(problem, answer)
        solutions = row.get("solutions") or [row.get("solution")]
        items.append(
            Item(
                id=row["id"],
                problem=problem,
                answer=answer,
                difficulty=_level(row.get("level")),
                solutions=tuple(s for s in solutions if s),
            )
        )
    return ProblemSet(name, tuple(items), dict(rules), tuple(dropped))


def _level(level: object) -> int:
    """``Level 5``, ``5 people`` or 5 -> 5; what has no number -> 0."""
    digits = "".join(c for c in str(level) if c.isdigit())
    return int(digits) if digits else 0
