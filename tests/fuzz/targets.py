"""What is fuzzed: extraction, and every reader of files that another process wrote.

``one_input`` takes bytes and decides by them which reader gets what: the bytes themselves, or a
sound record of which some places hold something else. Any input must give a value or the reader's
own error, in one sentence; any other exception goes through to the caller.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bridge.collect import collecting
from bridge.collect.run_rows import collect_run
from bridge.collect.status import grid_text
from bridge.grading.extraction import final_part, last_boxed
from bridge.grading.logic import choice_verdict, roles_verdict
from bridge.grading.points import points_verdict
from bridge.grading.verdicts import integer_verdict
from bridge.plan.config import load_suite, load_user_config
from bridge.plan.grid import Plan, load_plan
from bridge.store.records import RecordError, read_json, read_jsonl
from bridge.store.schema import ConfigError, typed
from bridge.store.shapes import AnswerRow, read_rows
from tests.fixtures import run_folders

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus")
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *("", "0", "done", "x" * 300, "\x00", "\ud800", "\u202e", "a\nb", "../../..", "2001-99-99"),
    *("!!python/object:os.system", "NaN", "1e999", "&a", "*a"),
    *([], [[]], {}, {"": None}, {"a": {"b": []}}, ["done"], [0, "1", None]),
)
WORDS = (
    "NaN",
    "-Infinity",
    "1e999",
    "[" * 5_000,
    '{"a":' * 3_000,
    "9" * 5_000,
    "\\ud800",
    "\ufeff",
)


class Choices:
    """A stream of decisions out of bytes; zeros when these are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 0

    def number(self, below: int) -> int:
        """A number from 0 to ``below - 1``."""
        value = int.from_bytes(self._data[self._next : self._next + 2].ljust(2, b"\0"), "little")
        self._next += 2
        return value % below

    def rest(self) -> bytes:
        """All bytes that no decision has used."""
        rest, self._next = self._data[self._next :], len(self._data)
        return rest


def target_of(data: bytes) -> tuple[str, bytes]:
    """The reader that an input is for, and what it gets."""
    names = sorted(TARGETS)
    return names[Choices(data).number(len(names))], data[2:]


def one_input(data: bytes) -> None:
    """Feed one input to one reader."""
    name, content = target_of(data)
    TARGETS[name](Choices(content))


# -- inputs --------------------------------------------------------------------------------------


def mutated(value: Any, choices: Choices) -> Any:
    """A copy of a JSON value in which one to three places are gone or hold something else."""
    value = copy.deepcopy(value)
    for _ in range(1 + choices.number(3)):
        places = list(_places(value))
        if not places:
            return JUNK[choices.number(len(JUNK))]
        container, key = places[choices.number(len(places))]
        what = choices.number(len(JUNK) + 3)
        if what == len(JUNK):
            del container[key]
        elif what == len(JUNK) + 1:
            container[key] = [container[key]]
        elif what == len(JUNK) + 2:
            other, name = places[choices.number(len(places))]
            container[key] = copy.deepcopy(other[name])
        else:
            container[key] = copy.deepcopy(JUNK[what])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def scrambled(text: str, choices: Choices) -> bytes:
    """Text with one to four pieces cut, doubled, or replaced by words or raw bytes."""
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(1 + choices.number(4)):
        start = choices.number(len(data) + 1)
        end = min(len(data), start + choices.number(40))
        what = choices.number(len(WORDS) + 3)
        middle = {0: b"", 1: data[start:end] * 2, 2: bytes([choices.number(256)])}.get(
            what, WORDS[what - 3].encode() if what >= 3 else b""
        )
        data = data[:start] + middle + data[end:]
    return data


def file_content(value: Any, dump: Callable[[Any], str], choices: Choices) -> bytes:
    """Content for a file that should hold ``value``."""
    how = choices.number(4)
    if how == 0:
        return choices.rest()
    if how == 1:
        return scrambled(dump(value), choices)
    return dump(mutated(value, choices)).encode("utf-8", "surrogatepass")


def _json_lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else str(rows)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, allow_unicode=False)


# -- targets -------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusal(*kinds: type[Exception]) -> Iterator[None]:
    """Only these errors, with one sentence."""
    try:
        yield
    except kinds as error:
        assert str(error).strip() and "\n" not in str(error), repr(error)


def extraction(choices: Choices) -> None:
    pieces = [
        r"\boxed{",
        r"\fbox",
        "{",
        "}",
        "\\",
        "$",
        " ",
        "<think>",
        "</think>",
        "7",
        "(",
        "is a",
    ]
    if choices.number(2):
        text = choices.rest().decode("utf-8", "surrogateescape")
    else:
        text = "".join(pieces[choices.number(len(pieces))] for _ in range(choices.number(200)))
    answer = last_boxed(text)
    part = final_part(text)
    assert answer is None or (part is not None and answer and answer in part)
    for gold in ("7", "B", "(1) Zoe is a knight (2) Max is a knave", "make 24 : ( 1 + 3 ) * 6"):
        for judge in (integer_verdict, choice_verdict, roles_verdict, points_verdict):
            assert judge(gold, text) in (None, "correct", "wrong", "unparsed")


def any_json(choices: Choices) -> None:
    path = _folder() / "any.json"
    path.write_bytes(file_content(run_folders.answers()[0], json.dumps, choices))
    with refusal(RecordError):
        read_json(path)
    with refusal(RecordError):
        read_jsonl(path)


def any_answers(choices: Choices) -> None:
    path = _folder() / "answers.jsonl"
    path.write_bytes(file_content(run_folders.answers(), _json_lines, choices))
    with refusal(RecordError):
        for row in read_rows(path, AnswerRow):
            assert isinstance(row["text"], str)


def run_files(choices: Choices) -> None:
    """One file of a finished run: collected, written as tables, and shown by ``bridge status``."""
    plan = _plan()
    spec = plan.runs[choices.number(len(plan.runs))]
    results = _folder() / "results"
    folder = spec.folder(results)
    names = ("done", "scores", "dynamics", "timings", "answers", "failure", "heartbeat")
    path: Path = getattr(folder, names[choices.number(len(names))])
    before = path.read_bytes()
    if path.suffix == ".jsonl":
        content = file_content(
            [json.loads(line) for line in before.splitlines()], _json_lines, choices
        )
    else:
        content = file_content(json.loads(before), json.dumps, choices)
    missing = folder.scores if path in (folder.failure, folder.heartbeat) else None
    kept = missing.read_bytes() if missing else b""
    try:
        path.write_bytes(content)
        if missing:
            missing.unlink()
        with refusal(RecordError):
            rows = collect_run(spec, results, partial=missing is not None)
            for name in ("runs", "scores", "dynamics", "costs", "answers"):
                columns = collecting.Columns()
                columns.extend(getattr(rows, name))
                collecting.as_table(name, columns).to_parquet(io.BytesIO())
        assert grid_text(dataclasses.replace(plan, runs=(spec,)), results=results)
    finally:
        path.write_bytes(before)
        if missing:
            missing.write_bytes(kept)


def suites(choices: Choices) -> None:
    names = ("smoke", "matrix")  # those that extend no other
    root = _folder() / "suite"
    (root / "suites").mkdir(parents=True, exist_ok=True)
    original = (ROOT / "suites" / f"{names[choices.number(len(names))]}.yaml").read_text()
    content = file_content(_loaded(original), _yaml, choices)
    (root / "suites" / "fuzz.yaml").write_bytes(content)
    with refusal(ConfigError):
        load_suite(root / "suites" / "fuzz.yaml")
    with refusal(ConfigError):
        load_plan("fuzz", root=root)


def user_config(choices: Choices) -> None:
    path = _folder() / "config.yaml"
    value = {
        "suite": "smoke",
        "overrides": {"training": {"n": 4}},
        "threads": 1,
        "source": "cached",
    }
    path.write_bytes(file_content(value, _yaml, choices))
    with refusal(ConfigError):
        load_user_config(path)
    typed({"a": [choices.rest().decode("utf-8", "replace")]})


def checkpoint(choices: Choices) -> None:
    """A manifest or a state of a checkpoint; torch is loaded for this one only."""
    from bridge.models.resuming import find_checkpoint, read_checkpoint

    folder = _folder() / "resume"
    newest = _checkpoints(folder)
    path = newest / ("manifest.json", "state.json", "tensors.safetensors")[choices.number(3)]
    before = path.read_bytes()
    if path.suffix == ".json":
        content = file_content(json.loads(before), json.dumps, choices)
    else:
        content = scrambled(before.decode("latin-1"), choices)
    try:
        path.write_bytes(content)
        with refusal(RecordError), contextlib.redirect_stderr(io.StringIO()):
            found = find_checkpoint(folder, identity={"train_hash": "h"})
            assert found is not None and read_checkpoint(found).step in (2, 4)
    finally:
        path.write_bytes(before)


TARGETS: dict[str, Callable[[Choices], None]] = {
    "answers": any_answers,
    "checkpoint": checkpoint,
    "extraction": extraction,
    "json": any_json,
    "run_files": run_files,
    "suites": suites,
    "user_config": user_config,
}


# -- what targets share --------------------------------------------------------------------------


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz"))


def remove_folder() -> None:
    """Remove what the targets wrote."""
    shutil.rmtree(_folder(), ignore_errors=True)


@cache
def _plan() -> Plan:
    plan = load_plan("smoke", root=ROOT)
    results = _folder() / "results"
    run_folders.write_suite(plan, results)
    for spec in plan.runs:
        run_folders.write_failure(spec, results)
        run_folders.write_heartbeat(spec, results, pid=1, host="elsewhere", at=0.0)
    return plan


@cache
def _loaded(text: str) -> Any:
    return yaml.safe_load(text)


@cache
def _checkpoints(folder: Path) -> Path:
    import torch

    from bridge.models.resuming import save_checkpoint

    for step in (2, 4):
        save_checkpoint(folder, step, {"train_hash": "h", "step": step}, [("a", torch.ones(3))])
    return folder / "step00000004"
