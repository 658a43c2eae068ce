"""What a run on several ranks cannot do is said in one sentence."""

from __future__ import annotations

import sys

import pytest
import torch

from bridge.engines.sharding.engines import import_deepspeed
from bridge.engines.sharding.several import joined
from bridge.store.schema import ConfigError


def test_a_missing_deepspeed_names_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match="not installed here; use the environment"):
        import_deepspeed.__wrapped__()


def test_another_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="ranks is 2 but 3 processes were started"), joined(2):
        pass


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="only 1 can be seen here"), joined(2):
        pass
