"""GGUF files: what was stored is read back, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from bridge.models import CheckpointError
from bridge.models.gguf import read_gguf
from tests.fixtures import gguf as made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made.write_gguf(tmp_path / "m.gguf")


def test_the_header_is_read(path: Path) -> None:
    source = read_gguf(path)
    assert source.metadata == {
        k: pytest.approx(v) if isinstance(v, float) else v for k, v in made.metadata().items()
    }
    shapes = {s.name: s.shape for s in source.stored}
    assert shapes == {name: values.shape for name, (values, _) in made.weights().items()}


def test_values_come_back_as_exactly_as_they_were_stored(path: Path) -> None:
    """Half a step of each block's scale is lost, and nothing of F32."""
    found = dict(read_gguf(path).tensors())
    for name, (values, kind) in made.weights().items():
        blocks = values.reshape(-1, 32) if kind != made.F32 else values.reshape(-1, 1)
        width = np.ptp(blocks, axis=1) if kind == made.Q4_1 else np.abs(blocks).max(axis=1)
        step = {made.F32: 0.0, made.Q4_1: 1 / 15, made.Q8_0: 1 / 127}[kind] * width
        error = np.abs(found[name].reshape(blocks.shape) - blocks).max(axis=1)
        assert found[name].dtype == np.float32
        assert (error <= 0.5 * step + 3e-3 * (kind != made.F32)).all(), name


def test_one_block_by_hand() -> None:
    """Q4_1: scale 0.5, minimum -1; byte k holds value k below and value k + 16 above."""
    from bridge.models.gguf import _q4_1, _q8_0

    packed = bytes(k | (15 - k) << 4 for k in range(16))
    block = np.frombuffer(np.float16(0.5).tobytes() + np.float16(-1).tobytes() + packed, np.uint8)
    expected = [0.5 * k - 1 for k in range(16)] + [0.5 * (15 - k) - 1 for k in range(16)]
    assert _q4_1(block[None]).ravel().tolist() == expected
    values = np.arange(-16, 16, dtype=np.int8)
    block = np.frombuffer(np.float16(0.25).tobytes() + values.tobytes(), np.uint8)
    assert _q8_0(block[None]).ravel().tolist() == (0.25 * values).tolist()


def test_another_quantisation_is_refused(tmp_path: Path) -> None:
    stored = made.weights()
    stored["blk.1.ffn_up.weight"] = (stored["blk.1.ffn_up.weight"][0], made.F32)
    path = made.write_gguf(tmp_path / "m.gguf", tensors=stored)
    raw = path.read_bytes()
    at = raw.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16
    path.write_bytes(raw[:at] + struct.pack("<I", 12) + raw[at + 4 :])
    with pytest.raises(CheckpointError, match=r"blk.1.ffn_up.weight is stored as ggml type 12; on"):
        dict(read_gguf(path).tensors())


def test_damage_is_refused(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-4000])
    with pytest.raises(CheckpointError, match=r"is cut; fetch"):
        dict(read_gguf(path).tensors())
    for size in (6, 30, 700, 3000):
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match=r"the header is damaged .*; fetch"):
            read_gguf(path)
    path.write_bytes(b"PK" + raw)
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        read_gguf(path)
    path.write_bytes(raw[:4] + struct.pack("<I", 1) + raw[8:])
    with pytest.raises(CheckpointError, match="is GGUF version 1; 2 and 3 can be read"):
        read_gguf(path)
