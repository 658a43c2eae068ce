"""Records survive what disks and processes do: full, read-only, cut off, written by two at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.store.records import (
    BusyError,
    RecordError,
    RunFolder,
    base_folder,
    cached_folder,
    canonical_json,
    content_hash,
    exclusive,
    folder_hash,
    jsonl,
    read_json,
    read_jsonl,
    run_folder,
    suite_folder,
    text_without_places,
    without_places,
    write_json,
    write_text,
)
from bridge.store.schema import ConfigError

HOLDER = """
import sys
from pathlib import Path
from bridge.store.records import RunFolder, exclusive
with exclusive(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path, "smoke", "tiny-qwen", "chains", "sft", 1)


def failing(code: int) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


# -- writing ---------------------------------------------------------------------------------------


def test_a_folder_is_named_after_its_run(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.path == tmp_path / "smoke/runs/tiny-qwen/chains/sft/seed1"
    names = [p for p in dir(RunFolder) if isinstance(getattr(RunFolder, p), property)]
    paths = [getattr(folder, name) for name in names]
    assert len(set(paths)) == len(paths) > 8
    assert all(folder.path in path.parents for path in paths)


def test_json_survives_a_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"text": "Fließ\n\u2028\U0001f600"}}
    path = tmp_path / "deep" / "er" / "x.json"
    write_json(path, value)
    assert read_json(path) == value
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": value})
    assert read_json(path) == {"loss": 1.0}


@pytest.mark.parametrize("stage", ["write", "sync", "rename"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_a_refusal_of_the_disk_is_one_sentence_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, code: int, said: str
) -> None:
    path = tmp_path / "done.json"
    write_json(path, {"old": 1})
    with monkeypatch.context() as patch:
        if stage == "write":
            patch.setattr("json.dumps", lambda *_, **__: "x")
            patch.setattr(Path, "open", failing(code))
        elif stage == "sync":
            patch.setattr(os, "fsync", failing(code))
        else:
            patch.setattr(Path, "replace", failing(code))
        with pytest.raises(RecordError) as caught:
            write_json(path, {"new": 2})
    message = str(caught.value)
    assert message.startswith(f"Cannot write {path}: ")
    assert said in message
    assert "\n" not in message
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_results_folder_is_one_sentence(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(RecordError, match="read-only; choose another results folder"):
        write_json(folder.done, {})
    with pytest.raises(RecordError, match="read-only"), exclusive(folder):
        pytest.fail("nothing may be written here")


def test_other_errors_of_the_system_are_not_explained_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "x", "text")


# -- hashes ----------------------------------------------------------------------------------------


def test_hashes_depend_on_values_not_on_key_order() -> None:
    assert content_hash({"a": 1, "b": [2, 3]}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 1.5})
    assert content_hash([1, 2]) != content_hash([2, 1])
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"\\u00e9","b":1}'


def test_a_folder_hash_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = folder_hash(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = folder_hash(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, folder_hash(tmp_path)}) == 3


# -- reading ---------------------------------------------------------------------------------------


def test_json_lines_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [{"text": "a\nb\u2028c"}, {"lone": "\ud800"}, {}]
    path = tmp_path / "x.jsonl"
    write_text(path, jsonl(rows))
    assert read_jsonl(path) == rows


@pytest.mark.parametrize("bad", ['{"step": 2', "[1]", "3", "", "{'step': 2}", "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "dynamics.jsonl"
    path.write_text(f'{{"step": 0}}\n{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(RecordError) as caught:
        read_jsonl(path)
    assert str(caught.value) == (
        f"{path}, line 3: not a JSON object; delete the file and run its job again."
    )


def test_a_last_line_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.jsonl"
    whole = jsonl([{"step": n, "kind": "rl"} for n in range(4)])
    path.write_text(whole[:-9])
    with pytest.raises(RecordError, match=r"dynamics\.jsonl, line 4"):
        read_jsonl(path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"])
def test_a_damaged_record_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "done.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"done\.json is damaged; delete it"):
        read_json(path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(RecordError, match=r"answers\.jsonl is not UTF-8"):
        read_jsonl(path)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_record_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(RecordError, match=r"x\.json is missing; run the job that writes it"):
        read(tmp_path / "x.json")


# -- one writer ------------------------------------------------------------------------------------


@pytest.fixture
def holder(folder: RunFolder, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_two_processes_never_write_one_folder(
    folder: RunFolder, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(BusyError) as caught, exclusive(folder):
        pytest.fail("the folder is taken")
    assert f"pid {holder.pid} on " in str(caught.value)
    assert "wait for it or stop it first" in str(caught.value)


@pytest.mark.slow
def test_a_killed_process_holds_nothing(folder: RunFolder, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with exclusive(folder):
        assert f"pid {os.getpid()} on " in folder.lock.read_text()


def test_a_lock_is_free_after_use_and_after_an_error(folder: RunFolder) -> None:
    with pytest.raises(KeyError), exclusive(folder):
        raise KeyError
    with exclusive(folder):
        pass
    with exclusive(folder):
        assert json.dumps(folder.lock.read_text()).count("pid") == 1


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\n", "-a", "a" * 65])
def test_no_folder_lies_outside_the_results(tmp_path: Path, name: str) -> None:
    for asked in (
        lambda: suite_folder(tmp_path, name),
        lambda: cached_folder(tmp_path, name),
        lambda: base_folder(tmp_path, "smoke", name),
        lambda: run_folder(tmp_path, name, "m", "d", "sft", 0),
        lambda: run_folder(tmp_path, "smoke", name, "d", "sft", 0),
        lambda: run_folder(tmp_path, "smoke", "m", name, "sft", 0),
        lambda: run_folder(tmp_path, "smoke", "m", "d", name, 0),
    ):
        with pytest.raises(ConfigError, match="is no name; take letters"):
            asked()


@pytest.mark.parametrize("name", ["cached", "published", "Cached"])
def test_folders_of_committed_files_are_no_suite_s(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="holds what is committed"):
        suite_folder(tmp_path, name)


def test_only_paths_lose_their_places() -> None:
    options = {"instruction": "/no_think", "answer_after": "/", "source": ["/home/me/data.jsonl"]}
    assert without_places(options) == {**options, "source": ["data.jsonl"]}


def test_a_sentence_keeps_its_paths_last_parts_only() -> None:
    said = "'/home/me/a.bin' (/srv/x/b.json:3): see https://a.org/b/c, 1/2, and/or /no_think."
    left = "'a.bin' (b.json:3): see https://a.org/b/c, 1/2, and/or /no_think."
    assert text_without_places(said) == left
    assert text_without_places("killed by signal 9") == "killed by signal 9"
