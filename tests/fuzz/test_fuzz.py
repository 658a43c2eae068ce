"""A short run of the fuzz targets with a fixed seed, and every input that once broke a reader."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, Choices, remove_folder

INPUTS = {
    "answers": 500,
    "checkpoint": 100,
    "extraction": 2_000,
    "json": 1_000,
    "run_files": 250,
    "suites": 60,
    "user_config": 200,
}
"""How many each target gets; those that read much get few."""


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    yield
    remove_folder()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_any_input_gives_a_value_or_the_readers_own_sentence(name: str) -> None:
    rng = random.Random(name)
    for _ in range(INPUTS[name]):
        TARGETS[name](Choices(rng.randbytes(rng.randrange(4, 120))))


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_once_broke_a_reader(path: Path) -> None:
    TARGETS[path.name.rpartition("-")[0]](Choices(path.read_bytes()))
