"""A published folder: complete, checkable by anybody, and refused once anything in it is wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from bridge.collect.collecting import collect_suite
from bridge.jobs import cli, publishing
from bridge.jobs.describing import CRATE
from bridge.jobs.publishing import publish
from bridge.jobs.verifying import SUMS, VerifyError, plain_files, verify
from bridge.plan.grid import Plan, load_plan
from bridge.store.records import ROOT, RecordError, file_hash, read_json, write_json, write_text
from bridge.store.schema import ConfigError
from tests.fixtures.fake_hub import FakeHub, fake_hub
from tests.fixtures.run_folders import write_failure, write_suite

ROWS = ("base", "sft", "bridge")


def _draw(tidy: Path, out: Path) -> None:
    write_text(out / "main_scores.svg", "<svg/>")


def _report(tidy: Path, tables: Path, figures: Path, out: Path, *, title: str) -> None:
    write_text(out, title)


@pytest.fixture(scope="module")
def plan() -> Plan:
    plan = load_plan("smoke", root=ROOT)
    return replace(plan, runs=tuple(s for s in plan.runs if s.label in ROWS and s.seed == 0))


@pytest.fixture(scope="module")
def suite(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a finished suite, all but the untrained run with a checkpoint. Read only."""
    suite = tmp_path_factory.mktemp("results") / "smoke"
    write_suite(plan, suite.parent)
    for spec in plan.runs:
        folder = spec.folder(suite.parent)
        if spec.label != "base":
            write_text(folder.policy / "model.safetensors", spec.label)
            write_text(folder.card, "# card")
        else:
            write_json(folder.done, read_json(folder.done) | {"policy": "../base"})
        changed = read_json(folder.spec) | {"where": "/home/somebody/model"}
        write_json(folder.spec, changed)
    collect_suite(plan, results=suite.parent, folder=suite / "tidy")
    return suite


@pytest.fixture(scope="module")
def published(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder with the checkpoint of one row. Read only."""
    out = tmp_path_factory.mktemp("published") / "out"
    with pytest.MonkeyPatch.context() as patch:
        _stand_in(patch)
        publish(out, "smoke", "A title: of two", suite / "tidy", runs=suite, rows=["sft"])
    return out


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch)


def _stand_in(patch: pytest.MonkeyPatch) -> None:
    """Figures and report are tested elsewhere; they take half a minute."""
    patch.chdir(ROOT)
    patch.setattr(publishing, "build_figures", _draw)
    patch.setattr(publishing, "build_report", _report)


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def _seal(folder: Path) -> None:
    """Write the hashes anew, as whoever changes a file can."""
    (folder / SUMS).unlink()
    write_text(
        folder / SUMS,
        "".join(f"{file_hash(folder / name)}  {name}\n" for name in plain_files(folder)),
    )


def _graph(folder: Path) -> dict[str, Any]:
    return {entity["@id"]: entity for entity in read_json(folder / CRATE)["@graph"]}


def test_a_published_folder_is_whole(published: Path) -> None:
    names = set(plain_files(published)) - {SUMS}
    assert verify(published) == len(names)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=published, check=True)
    run = "tiny-qwen/chains/sft/seed0"
    assert {n for n in names if n.startswith("policies/")} == {
        f"policies/{run}/README.md",
        f"policies/{run}/model.safetensors",
    }
    assert {"README.md", "report.html", "tables/main.csv", "tidy/answers.parquet"} <= names
    assert read_json(published / f"specs/{run}.json")["where"] == "model"
    head = yaml.safe_load((published / "README.md").read_text().split("---")[1])
    assert (head["pretty_name"], head["license"]) == ("A title: of two", "apache-2.0")


def test_the_crate_names_every_file(published: Path) -> None:
    graph = _graph(published)
    assert graph[CRATE]["about"] == {"@id": "./"}
    assert graph[CRATE]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    listed = {part["@id"] for part in graph["./"]["hasPart"]}
    assert listed == set(plain_files(published)) - {SUMS, CRATE}
    assert all(graph[name]["@type"] == "File" for name in listed)
    references = [r["@id"] for key in ("license", "author") for r in _list(graph["./"][key])]
    assert set(references) <= graph.keys()
    zenodo = read_json(published / ".zenodo.json")
    assert zenodo["creators"] == [{"name": "The BRIDGE harness maintainers"}]
    assert zenodo["license"] == graph[graph["./"]["license"]["@id"]]["name"] == "Apache-2.0"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _add_line(line: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        with (folder / SUMS).open("a") as stream:
            stream.write(line + "\n")

    return add


def _link(folder: Path) -> None:
    target = folder / "tables" / "main.csv"
    target.rename(folder.parent / "main.csv")
    target.symlink_to(folder.parent / "main.csv")


def _link_folder(folder: Path) -> None:
    (folder / "tables").rename(folder.parent / "tables")
    (folder / "tables").symlink_to(folder.parent / "tables")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "tables/main.csv").unlink(), "'tables/main.csv' is in SHA256SUMS, but mis"),
        (lambda f: (f / "report.html").write_text("x"), "'report.html' was changed"),
        (lambda f: (f / "more.txt").write_text("x"), "'more.txt' is not in SHA256SUMS"),
        (lambda f: (f / "tidy/.cache").write_text("x"), "'tidy/.cache' is not in SHA256SUMS"),
        (lambda f: (f / SUMS).unlink(), "SHA256SUMS is missing"),
        (lambda f: (f / SUMS).write_bytes(b"\xff\n"), "not UTF-8"),
        (lambda f: os.mkfifo(f / "pipe"), "'pipe' is a link or no plain file"),
        (_link, "'tables/main.csv' is a link"),
        (_link_folder, "'tables' is a link"),
        (_add_line("0" * 64 + "  /etc/passwd"), "'/etc/passwd' leads elsewhere"),
        (_add_line("0" * 64 + "  ../copy/README.md"), "leads elsewhere"),
        (_add_line("0" * 64 + "  tables/./main.csv"), "leads elsewhere"),
        (_add_line("0" * 64 + "  README.md"), "damaged or said twice"),
        (_add_line("README.md"), "damaged or said twice"),
        (_add_line(""), "damaged or said twice"),
    ],
)
def test_what_is_not_as_listed_is_refused(
    copy: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(copy)
    with pytest.raises(VerifyError, match=sentence):
        verify(copy)


def test_hashes_written_anew_hide_no_change_of_a_table(copy: Path) -> None:
    table = copy / "tables" / "main.csv"
    whole = table.read_text()
    for harm in (lambda: table.write_text(whole + "\n"), table.unlink):
        harm()
        _seal(copy)
        with pytest.raises(VerifyError, match=r"'tables/main.csv' is not what this version"):
            verify(copy)
    table.write_text(whole)
    (copy / "tables" / "better.csv").write_text("x")
    _seal(copy)
    with pytest.raises(VerifyError, match=r"'tables/better.csv' is not what"):
        verify(copy)


def test_hashes_written_anew_hide_no_change_of_a_tidy_table(copy: Path) -> None:
    for harm in (Path.unlink, lambda path: shutil.copy(copy / "tidy/costs.parquet", path)):
        harm(copy / "tidy" / "scores.parquet")
        _seal(copy)
        with pytest.raises(RecordError, match=r"scores.parquet is not what was collected"):
            verify(copy)


@pytest.mark.parametrize(
    "name", ["tidy/answers.parquet", "tidy/runs.parquet", "sources/published.csv"]
)
def test_files_that_no_reader_can_read_are_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\xff\x00PAR1")
    record = read_json(copy / "tidy" / "manifest.json")
    for table in record["tables"]:
        record["tables"][table] = file_hash(copy / "tidy" / f"{table}.parquet")
    write_json(copy / "tidy" / "manifest.json", record)
    _seal(copy)
    with pytest.raises(VerifyError, match="no tables can be made of tidy/"):
        verify(copy)


def test_numbers_that_no_table_can_hold_are_refused(copy: Path) -> None:
    path = copy / "tidy" / "contamination.parquet"
    table = pd.read_parquet(path)
    table["n_training"] = float("inf")
    table.to_parquet(path)
    record = read_json(copy / "tidy" / "manifest.json")
    record["tables"]["contamination"] = file_hash(path)
    write_json(copy / "tidy" / "manifest.json", record)
    _seal(copy)
    with pytest.raises(VerifyError, match="no tables can be made of tidy/: cannot convert float"):
        verify(copy)


def test_folders_too_deep_to_be_looked_into_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    for _ in range(20):  # 5000 characters, where a path may have 4096
        Path("a" * 250).mkdir()
        os.chdir("a" * 250)
    monkeypatch.chdir(copy)
    with pytest.raises(VerifyError, match=r"cannot be read: .*File name too long"):
        verify(copy)


def test_the_command_says_one_sentence_and_fails(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["verify", str(copy)])
    assert "files are whole" in capsys.readouterr().out
    (copy / ".gitattributes").write_text("")  # the hub adds it
    (copy / "report.html").unlink()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["verify", str(copy)])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "report.html" in captured.err


@pytest.mark.usefixtures("here")
def test_what_does_not_fit_is_not_published(suite: Path, tmp_path: Path) -> None:
    def refused(sentence: str, **options: Any) -> None:
        given = {"runs": suite, "tidy": suite / "tidy", "suite": "smoke"} | options
        with pytest.raises(RecordError, match=sentence):
            publish(tmp_path / "out", title="", **given)
        assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".out*")) == []

    refused("no run of row 'luffy'", rows=["sft", "luffy"])
    refused("without any checkpoint", rows=["all"], runs=None)
    refused("tables are of suite smoke", suite="zoo")
    other = Path(shutil.copytree(suite, tmp_path / "other"))
    run = other / "runs/tiny-qwen/chains/bridge/seed0"
    (run / "policy" / "README.md").unlink()
    refused("README.md is missing", runs=other, rows=["all"])
    write_json(run / "spec.json", read_json(run / "spec.json") | {"spec_hash": "0"})
    refused("not that of the collected run", runs=other)
    (other / "tidy" / "costs.parquet").unlink()
    refused("not what was collected", tidy=other / "tidy")


@pytest.mark.usefixtures("here")
def test_an_unfinished_suite_needs_partial(suite: Path, plan: Plan, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(suite, results / "smoke")
    failed = plan.runs[-1]
    shutil.rmtree(failed.folder(results).path)
    write_failure(failed, results)
    tidy = results / "smoke" / "partial" / "tidy"
    collect_suite(plan, results=results, folder=tidy, partial=True)
    with pytest.raises(RecordError, match=r"is failed; finish the suite, or .* --partial"):
        publish(tmp_path / "out", "smoke", "", tidy, runs=results / "smoke")
    command = ["publish", "--suite", "smoke", "--results", str(results), str(tmp_path / "out")]
    cli.main([*command, "--partial", "--policies", "all"])
    verify(tmp_path / "out")
    specs = {path.parent.name for path in (tmp_path / "out" / "specs").rglob("*.json")}
    assert specs == {*ROWS} - {failed.label}
    with pytest.raises(RecordError, match="not empty"):
        publish(tmp_path / "out", "smoke", "", tidy, runs=None, partial=True)


@pytest.mark.slow
def test_committed_tables_can_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For once with real figures and the real report."""
    monkeypatch.chdir(ROOT)
    cli.main(["publish", "--suite", "tune", "--cached", str(tmp_path / "out")])
    verify(tmp_path / "out")
    names = plain_files(tmp_path / "out")
    assert {"figures/main_scores.svg", "tables/rates.csv", "report.html"} <= {*names}
    assert not any(name.startswith(("specs/", "policies/")) for name in names)
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'href="tables/main.csv"' in page and str(ROOT) not in page


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "is missing here"),
        ("title: x", "needs authors"),
        ("authors: [{}]\nlicense: MIT", "needs"),
    ],
)
def test_somebody_must_stand_for_it(
    text: str | None,
    sentence: str,
    suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("CITATION.cff").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        publish(Path("out"), "smoke", "", suite / "tidy", runs=None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    from huggingface_hub import constants

    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def _push(folder: Path, *more: str) -> None:
    cli.main(["push", str(folder), "--repo", "me/mine", *more])


def test_push_sends_every_byte(published: Path, hub: FakeHub) -> None:
    _push(published, "--yes")
    assert hub.created == {
        "name": "mine",
        "organization": "me",
        "type": "dataset",
        "visibility": "private",
    }
    assert hub.files == {n: (published / n).read_bytes() for n in plain_files(published)}
    _push(published, "--yes")  # what is there already may be sent again


def test_push_asks_nothing_of_the_hub_without_yes(
    published: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    _push(published)
    assert "add --yes" in capsys.readouterr().out
    assert hub.asked == []


def test_push_sends_a_file_whose_name_looks_like_a_pattern(copy: Path, hub: FakeHub) -> None:
    (copy / "figures" / "pass[1].svg").write_text("<svg/>")
    _seal(copy)
    _push(copy, "--yes")
    assert hub.files.keys() == {*plain_files(copy)}


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    published: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(SystemExit, match="2"):
            _push(published, "--yes")
    said = capsys.readouterr().err
    assert "did not take the files" in said and "refused" in said and said.count("\n") == 1


def test_push_refuses(
    copy: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(SystemExit, match="2"):
            _push(copy, "--yes")
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1 and "hf_" not in said
        assert not any("commit" in path for path in hub.asked)

    hub.files = {".gitattributes": b"", "thesis.tex": b""}
    refused("me/mine holds thesis.tex")
    hub.files = {".gitattributes": b"", "README.md": b"mine"}
    refused("me/mine holds README.md, but no")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("the hub did not take the files (403")
    monkeypatch.delenv("HF_TOKEN")
    refused("HF_TOKEN is not set")
    (copy / "report.html").write_text("x")
    refused("'report.html' was changed")
