"""A wheel becomes a base model: converted, warmed up by the trainer, recorded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bridge.jobs import packaged
from bridge.jobs.packaged import prepare_packaged
from bridge.machine.interruption import Interrupted
from bridge.models import CheckpointError
from bridge.models.card import licence_of
from bridge.models.checkpoint import load_policy, weights_hash
from bridge.models.converting import convert, tensors_hash
from bridge.models.folder import is_made
from bridge.store.records import file_hash, read_json, read_jsonl
from bridge.store.settings import PackageModel, WarmUp
from tests.fixtures.gguf import write_gguf

pytestmark = pytest.mark.slow

WARM_UP = WarmUp(
    family="arithmetic",
    options={"part": "warm_up", "train_size": 12, "demonstrations": 12, "validation_size": 8},
    steps=3,
    batch_size=4,
    learning_rate=1e-3,
    max_response_tokens=6,
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    gguf = write_gguf(folder / "m.gguf")
    path = folder / "some_model-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, "some_model/m.gguf")
    return path


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model without a warm-up."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    convert(wheel.with_name("m.gguf"), folder)
    return folder


def model(wheel: Path, plain: Path, **over: Any) -> PackageModel:
    fields: dict[str, Any] = {
        "source": "package",
        "package": "some-model==1.2",
        "wheel_sha256": file_hash(wheel),
        "file": "some_model/m.gguf",
        "tensors_sha256": tensors_hash(load_file(plain / "model.safetensors")),
    }
    return PackageModel(**fields | over)


def made(model: PackageModel, folder: Path, wheel: Path) -> dict[str, Any]:
    prepare_packaged("m-warm", model, folder, 1, wheels=str(wheel.parent))
    return dict(read_json(folder / "base.json"))


def test_without_a_warm_up_it_is_the_file_s_model(wheel: Path, plain: Path, tmp_path: Path) -> None:
    chosen = model(wheel, plain)
    record = made(chosen, tmp_path / "m", wheel)
    assert (tmp_path / "m/model.safetensors").read_bytes() == (
        plain / "model.safetensors"
    ).read_bytes()
    assert record["tensors_sha256"] == chosen.tensors_sha256 and "warm_up" not in record
    assert record["gguf_sha256"] == file_hash(wheel.with_name("m.gguf"))
    assert is_made(chosen, tmp_path / "m") and record["hash"] == weights_hash(tmp_path / "m")
    assert licence_of("package", tmp_path / "m") == "apache-2.0"


def test_a_warm_up_teaches_its_demonstrations(wheel: Path, plain: Path, tmp_path: Path) -> None:
    chosen = model(wheel, plain, warm_up=WARM_UP)
    folder = tmp_path / "m"
    record = made(chosen, folder, wheel)
    steps = read_jsonl(folder / "warm_up.jsonl")
    assert [line["kind"] for line in steps] == ["probe", "sft", "sft", "sft"]
    assert steps[-1]["demo_loss_heldout"] < steps[0]["demo_loss_heldout"]
    assert record["warm_up"]["n_steps"] == 3 and record["warm_up"]["demonstrations"] == 12
    before = load_file(plain / "model.safetensors")
    after = load_policy(folder).model.state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name], after[name])
    assert licence_of("package", folder) == "apache-2.0"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m.lock", "m"]
    again = made(chosen, tmp_path / "again", wheel)
    assert again["hash"] == record["hash"], "the same weights, whenever they are made"


def test_a_stopped_warm_up_leaves_no_model(
    wheel: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> str:
        raise Interrupted("stopped by SIGTERM", progressed=True)

    chosen = model(wheel, plain, warm_up=WARM_UP)
    with monkeypatch.context() as patch:
        patch.setattr(packaged, "train_run", stopped)
        with pytest.raises(Interrupted):
            made(chosen, tmp_path / "m", wheel)
    assert not (tmp_path / "m").exists()
    assert made(chosen, tmp_path / "m", wheel)["warm_up"]["n_steps"] == 3


def test_other_tensors_are_refused(wheel: Path, plain: Path, tmp_path: Path) -> None:
    chosen = model(wheel, plain, tensors_sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"weights have SHA-256 \w{64}, not the suite"):
        made(chosen, tmp_path / "m", wheel)
    assert not (tmp_path / "m").exists()
