"""Settings that every test shares: one thread per test process, no network, no window for plots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch, tokenizers or matplotlib are imported; a test that needs others sets them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model that guesses in a box. Read only: tests of one process share it."""
    from tests.fixtures.tiny_run import make_base  # torch takes seconds that not all tests need

    return make_base(tmp_path_factory.mktemp("shared") / "base")


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs of this test grade in their own process."""
    from bridge.run import loop as run
    from tests.fixtures.tiny_run import TextGrader

    monkeypatch.setattr(run, "GraderPool", TextGrader)
