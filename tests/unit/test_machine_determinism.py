"""Ordered kernels: what the libraries are told, what is refused, and that a run repeats."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bridge.machine import determinism
from bridge.machine.determinism import make_deterministic, set_environment
from bridge.store.schema import ConfigError

VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC", "VLLM_BATCH_INVARIANT")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)


@pytest.fixture
def kernels() -> Iterator[None]:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = before[2]


@pytest.mark.usefixtures("unset")
def test_the_environment_names_what_the_engines_read() -> None:
    set_environment({"native"})
    assert {n: os.environ.get(n) for n in VARIABLES} == {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "FLASH_ATTENTION_DETERMINISTIC": "1",
        "VLLM_BATCH_INVARIANT": None,
    }
    set_environment({"vllm"})
    assert os.environ["VLLM_BATCH_INVARIANT"] == "1"


@pytest.mark.usefixtures("unset")
def test_an_environment_that_says_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_environment({"native"})  # ordered as well
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    with pytest.raises(ConfigError, match="VLLM_BATCH_INVARIANT=1, but the environment has 0"):
        set_environment({"vllm"})


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("gpu", "full", "warns"), [(True, False, True), (True, True, False)])
def test_a_gpu_only_warns_unless_all_is_to_be_ordered(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, full: bool, warns: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    make_deterministic(full=full, engines={"native"})
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() == warns


@pytest.mark.usefixtures("kernels")
def test_a_processor_never_only_warns() -> None:
    make_deterministic(full=False, engines={"vllm"})
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), (None, True)])
def test_vllm_is_refused_where_it_has_no_ordered_kernels(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if refused:
        with pytest.raises(ConfigError, match=r"batch-invariant kernels .*; take engine native"):
            make_deterministic(full=True, engines={"vllm"})
    else:
        make_deterministic(full=True, engines={"vllm"})
    make_deterministic(full=True, engines={"native"})


def test_the_libraries_are_told_before_they_are_imported() -> None:
    assert "torch" not in vars(determinism)


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    from benchmarks import gpu_check

    gpu_check.make_model(tmp_path / "tiny", gpu_check.TINY)
    found = gpu_check.repeated(tmp_path, "tiny", "native", time.monotonic())
    assert found == {"status": "done", "same_log": True, "same_weights": True}
    assert gpu_check.repeated(tmp_path, "tiny", "vllm", time.monotonic())["status"] == "failed"
