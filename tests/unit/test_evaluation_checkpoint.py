"""Each unusable checkpoint is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridge.evaluation import EvaluationError
from bridge.evaluation.checkpoint import check_checkpoint
from bridge.models import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises((CheckpointError, EvaluationError)) as caught:
        check_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_complete_folder_passes(folder: Path) -> None:
    check_checkpoint(folder)


def test_no_folder(tmp_path: Path) -> None:
    assert "no checkpoint" in refusal(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "no tokenizer.json"),
        ("chat_template.jinja", "no chat template"),
        ("model.safetensors", "model.safetensors is missing"),
    ],
)
def test_a_missing_file(folder: Path, name: str, said: str) -> None:
    (folder / name).unlink()
    assert said in refusal(folder)


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled" in refusal(folder)


@pytest.mark.parametrize("kept_bytes", [0, 5, 40])
def test_cut_weights(folder: Path, kept_bytes: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    assert "damaged" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_configuration(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json is damaged" in refusal(folder)


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in refusal(folder)
    save_file({"v": np.ones(3, np.float32)}, folder / "model-2.safetensors")
    check_checkpoint(folder)


def test_a_template_inside_the_tokenizer_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_checkpoint(folder)
