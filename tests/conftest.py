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
