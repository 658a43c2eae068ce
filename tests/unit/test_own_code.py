"""Methods and data sets of the user's own: found, refused in one sentence, and in the hash."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.jobs.contract import Broken, Contract, has_checkpoint, name_of
from bridge.methods.mixing import Mixing
from bridge.methods.registry import load_method
from bridge.plan import fingerprint
from bridge.plan.grid import load_plan
from bridge.plan.own_code import own_code_hash
from bridge.store.records import ROOT, SHIPPED, RunFolder, jsonl
from bridge.store.schema import ConfigError
from bridge.tasks.registry import load_family

METHOD = "from my_rows.helper import Half\n\nMETHOD = Half\n"
HELPER = "from bridge.methods.mixing import Mixing\n\n\nclass Half(Mixing):\n    SHARE = 0.5\n"
OPEN = """
import torch
from pydantic import BaseModel
from bridge.methods.mixing import Mixing


class Open(Mixing):
    class Options(BaseModel):
        steps: int


METHOD = Open
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a package of one method; what it loads is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "my_rows"
    folder.mkdir()
    for name, text in (("__init__", ""), ("half", METHOD), ("helper", HELPER)):
        (folder / f"{name}.py").write_text(text)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("my_rows")]:
        del sys.modules[name]


def row(method: str, **config: Any) -> dict[str, Any]:
    """Overrides of the smoke suite with one row."""
    block = {"models": ["tiny-qwen"], "datasets": ["chains"], "methods": ["mine"], "seeds": [0]}
    config = {"method": method, "options": {"steps": 3}, **config}
    return {"methods": {"mine": config}, "grid": [block]}


def test_a_method_beside_the_configuration_is_a_row(here: Path) -> None:
    assert issubclass(load_method("my_rows.half"), Mixing)
    (spec,) = load_plan("smoke", root=SHIPPED, overrides=row("my_rows.half")).runs
    assert spec.method == "my_rows.half" and spec.own_code_hash
    assert spec.as_dict()["own_code_hash"] == spec.own_code_hash
    assert fingerprint.train_fingerprint(spec)
    (ours,) = load_plan("smoke", root=SHIPPED, overrides=row("mixing")).runs
    assert ours.own_code_hash is None and ours.train_hash != spec.train_hash


def test_an_edit_of_what_it_imports_makes_another_run(here: Path) -> None:
    load_method("my_rows.half")
    before = own_code_hash("my_rows.half", "chains")
    (here / "helper.py").write_text(f'"""Only words."""\n{HELPER}')
    fingerprint.module_source.cache_clear()
    assert own_code_hash("my_rows.half", "chains") == before
    (here / "helper.py").write_text(HELPER.replace("0.5", "0.25"))
    fingerprint.module_source.cache_clear()
    assert own_code_hash("my_rows.half", "chains") != before
    assert own_code_hash("mixing", "chains") is None


def test_an_edit_of_the_package_around_it_makes_another_run(here: Path) -> None:
    """Its __init__ runs when the method is imported, though nothing names it."""
    load_method("my_rows.half")
    before = own_code_hash("my_rows.half", "chains")
    (here / "__init__.py").write_text("import bridge.methods.mixing as m\nm.Mixing.n = 1\n")
    fingerprint.module_source.cache_clear()
    assert own_code_hash("my_rows.half", "chains") != before


def test_an_edit_of_ours_that_it_imports_makes_its_runs_stale(here: Path, tmp_path: Path) -> None:
    """A method that is built on another's file needs that file as the other does."""
    (spec,) = load_plan("smoke", root=SHIPPED, overrides=row("my_rows.half")).runs
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "bridge", copy / "bridge")
    before = fingerprint.train_fingerprint(spec, copy)
    assert before == fingerprint.train_fingerprint(spec)
    for name, counts in (("chord", False), ("mixing", True)):
        path = copy / "bridge" / "methods" / f"{name}.py"
        path.write_text(f"{path.read_text()}\nEDITED = 1\n")
        for cached in (fingerprint.module_source, fingerprint.closure, fingerprint.fingerprint):
            cached.cache_clear()
        assert (fingerprint.train_fingerprint(spec, copy) != before) is counts


def test_a_method_of_ours_is_not_named_by_its_module(here: Path) -> None:
    """Its file would be in no hash: neither among ours nor among the user's."""
    with pytest.raises(ConfigError, match=r"'bridge\.methods\.sft' is not the user's"):
        load_method("bridge.methods.sft")


def test_a_base_model_is_not_warmed_up_on_a_data_set_of_ones_own(here: Path) -> None:
    """Its code would not be in the hash of the base model."""
    (here / "data.py").write_text("from bridge.tasks.arithmetic import FAMILY\n")
    warm = {"models": {"smollm2-135m-warm": {"warm_up": {"family": "my_rows.data"}}}}
    with pytest.raises(ConfigError, match=r"warm_up\.family: unknown problem family"):
        load_plan("pocket_smoke", root=SHIPPED, overrides=warm)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("my_rows.gone", None, "cannot be imported: No module named 'my_rows.gone'"),
        ("my_rows.broken", "def (:\n", "cannot be imported: invalid syntax"),
        ("my_rows.wrong", "\nMETHOD = Method\n", "raised NameError: name 'Method' is not defined"),
        ("my_rows.exits", "raise SystemExit('no\\nway')", "exits.py raised SystemExit: no way"),
        ("my_rows.empty", "", "empty.py defines no METHOD"),
        ("my_rows.name", "METHOD = 'half'\n", "METHOD is no subclass of Method"),
    ],
)
def test_what_is_no_method_is_one_sentence(
    here: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (here / f"{name.partition('.')[2]}.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_plan("smoke", root=SHIPPED, overrides=row(name))
    words = str(caught.value)
    assert said in words and "methods.mine" in words and "\n" not in words


def test_a_data_set_of_ones_own(here: Path) -> None:
    (here / "data.py").write_text("from bridge.tasks.chains import FAMILY\n")
    assert load_family("my_rows.data") is load_family("chains")
    with pytest.raises(ConfigError, match="defines no FAMILY"):
        load_family("my_rows.half")
    (here / "kind.py").write_text("from bridge.tasks.chains import Chains as FAMILY\n")
    with pytest.raises(ConfigError, match="FAMILY is not an object"):
        load_family("my_rows.kind")


def test_how_a_suite_calls_a_file(here: Path) -> None:
    assert name_of("mixing") == "mixing"
    assert name_of("my_rows/half.py") == "my_rows.half"
    with pytest.raises(ConfigError, match="is no file below"):
        name_of("/elsewhere/half.py")
    with pytest.raises(ConfigError, match="is no name"):
        name_of("..half")
    (here.parent / "two words.py").write_text(METHOD)
    with pytest.raises(ConfigError, match="Python cannot import"):
        name_of("two words.py")


def test_a_lone_file_beside_the_configuration(here: Path) -> None:
    """Without a package around it; what it imports there counts in the hash."""
    lone = here.parent / "my_rows_lone.py"
    lone.write_text(METHOD)
    assert name_of("my_rows_lone.py") == "my_rows_lone.py"
    (spec,) = load_plan("smoke", root=SHIPPED, overrides=row("my_rows_lone.py")).runs
    assert spec.own_code_hash and fingerprint.train_fingerprint(spec)
    (here / "helper.py").write_text(HELPER.replace("0.5", "0.25"))
    fingerprint.module_source.cache_clear()
    assert own_code_hash("my_rows_lone.py", "chains") != spec.own_code_hash


def test_a_lone_file_with_the_name_of_a_module_is_refused(here: Path) -> None:
    (here.parent / "json.py").write_text(METHOD)
    with pytest.raises(ConfigError, match=r"Python finds .*json.* first; rename the file"):
        load_method("json.py")


def declare(folder: Path, package: str, lines: str) -> None:
    """What installing a package with entry points leaves behind."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)


@pytest.fixture
def installed(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package is installed and declares a method and a data set; nothing is beside it."""
    (here / "data.py").write_text("from bridge.tasks.chains import FAMILY\n")
    declare(
        tmp_path,
        "my_rows",
        "[bridge.methods]\nhalf = my_rows.half:METHOD\nmixing = my_rows.half\n"
        "[bridge.tasks]\nlinks = my_rows.data\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


def test_entry_points_of_an_installed_package(installed: Path) -> None:
    (spec,) = load_plan("smoke", root=SHIPPED, overrides=row("half")).runs
    assert spec.method == "half" and fingerprint.train_fingerprint(spec)
    assert spec.own_code_hash == own_code_hash("my_rows.half", "chains")
    assert load_family("links") is load_family("chains")
    assert load_method("mixing") is Mixing, "the name of a method of ours stays ours"
    with pytest.raises(ConfigError, match="did you mean 'half'"):
        load_method("hal")


def test_two_packages_that_declare_one_name_are_refused(installed: Path) -> None:
    declare(installed, "theirs", "[bridge.methods]\nhalf = theirs.half\n")
    with pytest.raises(ConfigError, match=r"declared by my_rows\.half and theirs\.half"):
        load_method("half")


def test_the_contract_sees_open_options_and_torch(here: Path) -> None:
    (here / "open.py").write_text(OPEN)
    contract = Contract("my_rows.open", {}, here.parent)
    with pytest.raises(Broken, match="not a subclass"):
        contract.closed_options()
    with pytest.raises(Broken, match="loads torch"):
        contract.planned_without_torch()
    kept = Contract("my_rows.half", {"rl_weight": 0.3}, here.parent)
    assert "rl_weight" in kept.closed_options()
    assert kept.options == {"steps": 6, "rl_weight": 0.3}
    assert kept.planned_without_torch() == "torch is not imported"


def test_the_contract_kills_a_run_that_has_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name, whole in ((".step00000001.tmp", False), ("step00000001", True)):
        (folder.resume / name).mkdir(parents=True)
        (folder.resume / name / "manifest.json").touch()
        assert has_checkpoint(folder) is whole


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], r"steps \[\] of 0"),
        ([1.0, None], r"steps \[2\] of 2"),
        ([1.0, ...], r"steps \[2\] of 2"),
    ],
)
def test_the_contract_sees_steps_without_a_gradient(
    here: Path, steps: list[Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(here.parent)
    lines = [{"step": 0}, *({} if norm is ... else {"grad_norm": norm} for norm in steps)]
    folder.dynamics.write_text(jsonl(lines))
    contract = Contract("my_rows.half", {}, here.parent)
    monkeypatch.setattr(contract, "_run", lambda *_, **__: folder)
    for check in (contract.trains, contract.counts_globally):
        with pytest.raises(Broken, match=said):
            check()
