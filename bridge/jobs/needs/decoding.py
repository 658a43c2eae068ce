"""Seconds to draw a batch of answers token by token, until its longest row ends.

Lengths are taken to fall off exponentially up to the limit, where the rest is cut: with a mean of
0.3 of the limit 4 % of the answers reach it, so a batch of any size waits for a row of full length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from bridge.jobs.needs.devices import Device
from bridge.jobs.needs.memory import GIB
from bridge.jobs.needs.rates import (
    DECODE_STEP_S,
    DECODE_UTILISATION,
    LAUNCH_LAYER_S,
    ROWS_AT_ONCE,
    SCORE_UTILISATION,
)
from bridge.jobs.needs.shapes import ModelShape

_PIECES = 64
"""Of the limit, in which the rows that are left are summed."""


@dataclass(frozen=True)
class Decoder:
    """An engine on one device.

    Args:
        width: bytes of a weight, and of a key or value.
        room_gib: memory of vLLM's cache; None: an engine that decodes all answers at once.
        layer_s: what the host takes for a layer and token of such an engine.
    """

    shape: ModelShape
    device: Device
    width: int
    room_gib: float | None
    layer_s: float = LAUNCH_LAYER_S

    def draw_s(
        self, answers: float, *, prompt: float, mean: float, longest: int, batch: int | None = None
    ) -> float:
        """Seconds until the last of the answers has ended.

        Args:
            prompt, mean, longest: tokens of a prompt, and of an answer on average and at most.
            batch: answers that begin together at most, the next when all of them have ended; None:
                a new one begins as soon as another ends.
        """
        if answers <= 0:
            return 0.0
        if batch is not None and answers > batch:
            waves = answers / batch
            return waves * self.draw_s(batch, prompt=prompt, mean=mean, longest=longest)
        at_once = max(1.0, min(answers, self._room(prompt + mean)))
        # While others wait, the batch stays full; each round of tokens ends at_once / mean rows.
        full_s = (answers - at_once) * mean / at_once * self._step_s(at_once, prompt + mean)
        return full_s + self._tail_s(at_once, prompt, mean, longest)

    def _tail_s(self, rows: float, prompt: float, mean: float, longest: int) -> float:
        scale, piece = _scale(mean, longest), longest / _PIECES
        total = 0.0
        for k in range(_PIECES):
            token = (k + 0.5) * piece
            lasting = exp(-token / scale)
            any_left = 1 - (1 - lasting) ** rows
            total += piece * any_left * self._step_s(max(1.0, rows * lasting), prompt + token)
        return total

    def _room(self, context: float) -> float:
        if self.room_gib is None:
            return float("inf")
        return min(ROWS_AT_ONCE, self.room_gib * GIB / (self._row_bytes * context))

    @property
    def _row_bytes(self) -> int:
        """Keys and values of one token."""
        return 2 * self.shape.num_hidden_layers * self.shape.key_width * self.width

    def _step_s(self, rows: float, context: float) -> float:
        """Seconds for one more token of each row: all weights and the rows' keys are read once."""
        read = self.shape.parameters * self.width + rows * context * self._row_bytes
        # A GPU that decodes waits for its memory; a processor has no tensor cores to wait for.
        rate = self.device.float32_tflops or self.device.bf16_tflops
        compute_s = rows * forward_flops(self.shape, context) / (SCORE_UTILISATION * rate * 1e12)
        work_s = max(read / (DECODE_UTILISATION * self.device.bandwidth_gbs * 1e9), compute_s)
        if self.room_gib is None:
            return work_s + self.shape.num_hidden_layers * self.layer_s
        return work_s + DECODE_STEP_S


def forward_flops(shape: ModelShape, length: float) -> float:
    """Operations per token of a forward pass: 2 per weight, and attention to half of the row."""
    matrices = shape.num_hidden_layers * sum(i * o for i, o in shape.linears)
    weights = matrices + shape.embedding_parameters
    return 2 * weights + 2 * shape.num_hidden_layers * shape.query_width * length


def _scale(mean: float, longest: int) -> float:
    """Of the exponential whose mean is ``mean`` when it is cut at ``longest``."""
    if mean >= 0.99 * longest:
        return 50.0 * longest
    low, high = mean, 50.0 * longest
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if middle * (1 - exp(-longest / middle)) < mean else (low, middle)
        )
    return high
