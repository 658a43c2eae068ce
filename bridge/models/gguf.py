"""Read a GGUF file: its header, and its tensors as float32 arrays.

Three ways of storing numbers are known: F32, and the blocks of 32 values Q4_1 (4 bits each, a scale
and a minimum in float16) and Q8_0 (8 bits each, a scale). Layout: the GGUF specification of ggml,
versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.models import CheckpointError

Array = NDArray[np.float32]

_BLOCK: Final = 32
_SCALARS: Final = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Number of a type of the header -> its letter in :mod:`struct`."""
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class Stored:
    """A tensor as the file holds it."""

    name: str
    shape: tuple[int, ...]
    """As numpy and torch count: the last dimension lies together in memory."""
    kind: int
    offset: int
    """Of its first byte in the file."""


@dataclass(frozen=True)
class Gguf:
    """An open file."""

    path: Path
    metadata: dict[str, Any]
    stored: tuple[Stored, ...]
    data: memoryview

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Names and values, one at a time: all of them together are several times the file.

        Raises:
            CheckpointError: a tensor is stored in another way, or the file ends before it does.
        """
        for tensor in self.stored:
            yield tensor.name, self._decoded(tensor)

    def _decoded(self, tensor: Stored) -> Array:
        if tensor.kind not in _KINDS:
            raise CheckpointError(
                f"{self.path}: tensor {tensor.name} is stored as ggml type {tensor.kind}; only "
                f"{', '.join(f'{name} ({k})' for k, (name, *_) in _KINDS.items())} can be read."
            )
        _, values, size, decode = _KINDS[tensor.kind]
        n_blocks, rest = divmod(math.prod(tensor.shape), values)
        raw = self.data[tensor.offset : tensor.offset + n_blocks * size]
        if rest or len(raw) != n_blocks * size:
            raise CheckpointError(
                f"{self.path}: tensor {tensor.name} is cut; fetch the file again."
            )
        blocks = np.frombuffer(raw, np.uint8).reshape(n_blocks, size)
        return decode(blocks).reshape(tensor.shape)


def _f32(blocks: NDArray[np.uint8]) -> Array:
    return blocks.view("<f4").astype(np.float32)


def _q4_1(blocks: NDArray[np.uint8]) -> Array:
    """The low halves of the 16 bytes are the first 16 values, the high halves the others."""
    scale, minimum, packed = np.hsplit(blocks, (2, 4))
    values = np.concatenate((packed & 15, packed >> 4), axis=1).astype(np.float32)
    return _half(scale) * values + _half(minimum)


def _q8_0(blocks: NDArray[np.uint8]) -> Array:
    scale, values = np.hsplit(blocks, (2,))
    return _half(scale) * np.ascontiguousarray(values).view(np.int8).astype(np.float32)


def _half(pairs: NDArray[np.uint8]) -> Array:
    return np.ascontiguousarray(pairs).view("<f2").astype(np.float32)


_KINDS: Final[dict[int, tuple[str, int, int, Callable[[NDArray[np.uint8]], Array]]]] = {
    0: ("F32", 1, 4, _f32),
    3: ("Q4_1", _BLOCK, 20, _q4_1),
    8: ("Q8_0", _BLOCK, 34, _q8_0),
}
"""ggml type -> name, values and bytes of a block, decoder."""


def read_gguf(path: Path) -> Gguf:
    """Read the header of a file; tensors are decoded when they are asked for.

    Raises:
        CheckpointError: this is no GGUF file, or its header is damaged.
    """
    data = memoryview(path.read_bytes())
    if bytes(data[:4]) != b"GGUF":
        raise CheckpointError(f"{path} is no GGUF file; fetch it again.")
    cursor = _Cursor(data, 4)
    try:
        if (version := cursor.scalar("I")) not in (2, 3):
            raise CheckpointError(f"{path} is GGUF version {version}; 2 and 3 can be read.")
        n_tensors, n_fields = cursor.scalar("Q"), cursor.scalar("Q")
        metadata = {cursor.text(): cursor.value(cursor.scalar("I")) for _ in range(n_fields)}
        described = [_described(cursor) for _ in range(n_tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-cursor.position // alignment) * alignment
    except (struct.error, UnicodeDecodeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({error}); fetch it again.") from None
    stored = (Stored(name, shape, kind, start + at) for name, shape, kind, at in described)
    return Gguf(path, metadata, tuple(stored), data)


def _described(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text()
    dimensions = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
    return name, tuple(reversed(dimensions)), cursor.scalar("I"), cursor.scalar("Q")


class _Cursor:
    """A place in the header that moves as values are read."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data, self.position = data, position

    def scalar(self, letter: str) -> Any:
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.position)
        self.position += struct.calcsize(f"<{letter}")
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        raw = bytes(self.data[self.position : self.position + length])
        if len(raw) != length:
            raise struct.error("a text goes beyond the file's end")
        self.position += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            inner, length = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(length)]
        return self.scalar(_SCALARS[kind])
