"""How the writers of synthetic texts compute: exactly, with slips, or with misconceptions.

A writer is a function ``(operation, left, right, exact) -> result``, asked once per number.

- The expert slips at random: no fact is wrong in general, but a demonstration can be.
- The base model's corpus holds misconceptions: a fixed share of the facts is written wrongly more
  often than not, always with the same wrong result. Greedy decoding then repeats the mistake while
  sampling finds the right result now and then, which is what RL needs and SFT can correct.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bridge.store.seeds import bucket

Writer = Callable[[str, int, int, int], int]
Alter = Callable[[int, int], int]
"""(exact result, choice) -> a wrong result; equal choices give equal mistakes."""

MISCONCEIVED_STRENGTH = 0.65
"""How often such a fact is written wrongly."""


def exact(operation: str, left: int, right: int, result: int) -> int:
    """The writer that is always right."""
    return result


def slipping(rng: random.Random, probability: float, alter: Alter) -> Writer:
    """Return a writer that is wrong with the given probability, each time in another way."""

    def write(operation: str, left: int, right: int, result: int) -> int:
        return alter(result, rng.randrange(1000)) if rng.random() < probability else result

    return write


def misconceived(rng: random.Random, alter: Alter, *, share: float, world: int = 0) -> Writer:
    """Return a writer that is mostly wrong about a fixed share of the facts, other ones in each
    world."""
    where = f" in world {world}" if world else ""

    def write(operation: str, left: int, right: int, result: int) -> int:
        position = bucket(f"{left} {operation} {right}{where}", n_buckets=100_000)
        if position % 100 < 100 * share and rng.random() < MISCONCEIVED_STRENGTH:
            return alter(result, position // 100)
        return result

    return write
