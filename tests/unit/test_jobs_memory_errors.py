"""Memory that runs out is a sentence and a status; what was finished stays."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.jobs.memory_errors import MemoryShortError, memory_explained
from bridge.jobs.run_jobs import has_remedy, recorded_failure
from bridge.machine.memory import GIB, MemoryMeter, Reading, device_meter, read_cuda
from bridge.plan.grid import RunSpec
from bridge.run.loop import train_run
from bridge.run.state import Run
from bridge.store.records import read_json
from bridge.store.shapes import Done
from tests.fixtures.tiny_run import make_base, make_spec

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.65 GiB of "
    "which 1.19 GiB is free. Including non-PyTorch memory, this process has 78.4 GiB in use."
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("full") / "base", steps=10)


def test_the_sentence_names_what_goes_on_and_what_starts_afresh(base: Path) -> None:
    spec = make_spec(base, "sft", activation_checkpointing=True, micro_batch_tokens=4096)
    with pytest.raises(MemoryShortError) as caught, memory_explained(spec, "train"):
        raise torch.OutOfMemoryError(CUDA)
    assert str(caught.value) == (
        "the device ran out of memory (79.65 GiB) when 2.00 GiB more were wanted; set "
        "training.cpu_offload: true and the run continues from its checkpoint, or set training to "
        "a micro_batch_tokens below 4096 or precision: bfloat16 or trainable: lora, afresh, or "
        "take a larger device (bridge doctor --device NAME)."
    )
    assert has_remedy(caught.value)


def test_an_evaluation_that_runs_out_says_which_setting_it_was(base: Path) -> None:
    with (
        pytest.raises(MemoryShortError, match=r"lower evaluation.batch_size, now 128; the trained"),
        memory_explained(make_spec(base, "sft"), "evaluate"),
    ):
        raise torch.OutOfMemoryError(CUDA)


def test_other_errors_pass(base: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        memory_explained(make_spec(base, "sft"), "train"),
    ):
        raise RuntimeError("shapes differ")


def fill_the_memory(run: Run) -> dict[str, Any]:
    torch.empty(2**50)
    raise AssertionError("a petabyte was found")


def attempt(spec: RunSpec, results: Path) -> str:
    folder = spec.folder(results)
    with recorded_failure(spec, folder, "train"), memory_explained(spec, "train"):
        return train_run(spec, results=results, threads=1)


def test_a_run_that_runs_out_keeps_its_checkpoint_and_goes_on_with_less(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_spec(base, "sft", options={"steps": 4})
    assert attempt(plain, tmp_path / "whole") == "done"
    record = read_json(plain.folder(tmp_path / "whole").done)
    assert Done.model_validate(record).memory_by_stage_gib == device_meter().stages
    step = Run.step
    with monkeypatch.context() as patch:
        patch.setattr(
            Run, "step", lambda run: (fill_the_memory if run.counters.step == 3 else step)(run)
        )
        with pytest.raises(MemoryShortError, match="the host ran out of memory when"):
            attempt(plain, tmp_path / "short")
    folder = plain.folder(tmp_path / "short")
    record = read_json(folder.failure)
    assert record["status"] == "failed" and "the host ran out of memory" in record["reason"]
    assert not folder.done.exists()
    assert list(folder.resume.glob("step*2"))
    # The remedy that it names is in no hash, so the checkpoint still belongs to the run.
    less = make_spec(base, "sft", options={"steps": 4}, activation_checkpointing=True)
    assert attempt(less, tmp_path / "short") == "done"
    whole = plain.folder(tmp_path / "whole")
    assert folder.dynamics.read_bytes() == whole.dynamics.read_bytes()


def test_stages_inside_each_other_share_their_peak() -> None:
    readings = iter(
        Reading(*(int(x * GIB) for x in values))
        for values in [(9, 9, 9), (1, 2, 3), (5, 6, 7), (2, 2, 4), (8, 8, 8), (3, 3, 3)]
    )
    meter = MemoryMeter(lambda: next(readings))
    meter.begin("rollout")  # what was before belongs to no stage
    meter.begin("sync")
    meter.end()
    meter.end()
    meter.begin("update")
    meter.end()
    assert meter.stages == {
        "rollout": {"allocated": 5.0, "reserved": 6.0, "device": 7.0},
        "sync": {"allocated": 5.0, "reserved": 6.0, "device": 7.0},
        "update": {"allocated": 3.0, "reserved": 3.0, "device": 3.0},
    }
    assert meter.peaks() == {"allocated": 5.0, "reserved": 6.0, "device": 7.0}


def test_without_a_gpu_nothing_is_measured_and_nothing_invented() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    meter = device_meter()
    meter.begin("update")
    meter.end()
    assert meter.stages == {} and meter.peaks() == {
        "allocated": None,
        "reserved": None,
        "device": None,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_what_a_stage_takes() -> None:
    meter = device_meter()
    with contextlib.ExitStack() as stack:
        meter.begin("update")
        stack.callback(meter.end)
        torch.empty(2**28, device="cuda")
    assert meter.stages["update"]["allocated"] >= 1.0


def test_the_device_s_peak_holds_what_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 of which 30 are free: 10 others' and 40 ours; ours were 60, so the device had 70."""
    told = {
        "mem_get_info": (30, 80),
        "max_memory_allocated": 55,
        "max_memory_reserved": 60,
        "memory_reserved": 40,
        "reset_peak_memory_stats": None,
    }
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert read_cuda() == Reading(allocated=55, reserved=60, device=70)
