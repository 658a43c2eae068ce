"""A run that was killed ends with the same bytes as one that was not, for every method."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bridge.methods.registry import load_method, method_names
from bridge.models import resuming as checkpoints
from bridge.models.checkpoint import writing_tensors
from bridge.models.resuming import find_checkpoint, read_checkpoint, save_checkpoint
from bridge.plan.grid import RunSpec
from bridge.run import loop as run_module
from bridge.run import state as session
from bridge.run.loop import Run, train_run
from bridge.store.records import BusyError, RecordError, RunFolder, exclusive
from tests.fixtures.tiny_run import TextGrader, make_spec, read_lines

METHODS = tuple(name for name in method_names() if name != "untrained")


class Killed(BaseException):
    """Stands for SIGKILL where a test stays in one process."""


def spec_of(base: Path, method: str, **training: Any) -> RunSpec:
    # Joint methods take 5 steps, those of two stages or kinds more; checkpoints at 2, 4, ...
    one_stage = "steps" in load_method(method).Options.model_fields
    options = {"steps": 5} if one_stage else {"sft_steps": 3, "rl_steps": 3}
    if method == "alternating":
        options = {"steps": 3}
    return make_spec(base, method, options=options, **({"kl_coef": 0.01} | training))


def newest_step(resume: Path, spec: RunSpec) -> int:
    """Step of the newest sound checkpoint."""
    found = find_checkpoint(resume, identity={"train_hash": spec.train_hash})
    assert found is not None
    return read_checkpoint(found).step


def results_of(folder: RunFolder) -> dict[str, bytes]:
    """What must not depend on having been killed."""
    files = {"dynamics.jsonl": folder.dynamics, "policy": folder.policy / "model.safetensors"}
    return {name: path.read_bytes() for name, path in files.items()}


def train(spec: RunSpec, results: Path) -> RunFolder:
    assert train_run(spec, results=results, threads=1) == "done"
    return spec.folder(results)


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let every run die as it begins a step; returns the function that ends this."""
    original = Run.step

    def dying(self: Run) -> dict[str, Any]:
        if self.counters.step + 1 == step:
            raise Killed
        return original(self)

    monkeypatch.setattr(Run, "step", dying)
    return lambda: monkeypatch.setattr(Run, "step", original)


# -- every method -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_with_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None, method: str
) -> None:
    spec = spec_of(base, method)
    expected = results_of(train(spec, tmp_path / "straight"))
    # Twice: the second time what is continued is itself a continuation.
    for step in (4, 5):
        revive = stop_before(step, monkeypatch)
        with pytest.raises(Killed):
            train_run(spec, results=tmp_path / "killed", threads=1)
        revive()
    folder = train(spec, tmp_path / "killed")
    assert results_of(folder) == expected
    assert len(read_lines(folder.timings)) == len(read_lines(folder.dynamics))
    assert not folder.resume.exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_run_is_not_simply_made_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None, method: str
) -> None:
    spec = spec_of(base, method)
    revive = stop_before(5, monkeypatch)
    with pytest.raises(Killed):
        train_run(spec, results=tmp_path, threads=1)
    revive()
    made: list[int] = []
    original = Run.step
    monkeypatch.setattr(
        Run, "step", lambda self: (made.append(self.counters.step + 1), original(self))[1]
    )
    train(spec, tmp_path)
    assert made[0] == 5


@pytest.mark.parametrize("reference", ["base", "sft"])
def test_the_kl_reference_survives(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_workers: None,
    reference: str,
) -> None:
    """Taken from the resumed policy it would give the policy a fresh allowance to drift."""
    options = {"sft_steps": 2, "rl_steps": 4, "reference": reference}
    spec = make_spec(base, "cold_start", options=options, kl_coef=0.5)
    expected = results_of(train(spec, tmp_path / "straight"))
    revive = stop_before(6, monkeypatch)
    with pytest.raises(Killed):
        train_run(spec, results=tmp_path / "killed", threads=1)
    revive()
    assert results_of(train(spec, tmp_path / "killed")) == expected


def test_what_a_run_has_spent_is_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    spec = spec_of(base, "bridge")
    straight = json.loads(train(spec, tmp_path / "straight").done.read_text())
    revive = stop_before(5, monkeypatch)
    with pytest.raises(Killed):
        train_run(spec, results=tmp_path / "killed", threads=1)
    revive()
    killed = json.loads(train(spec, tmp_path / "killed").done.read_text())
    for key in ("tokens", "flops", "n_steps", "hashes", "train_hash"):
        assert killed[key] == straight[key], key


# -- true SIGKILL -------------------------------------------------------------------------------


def train_and_die(spec: RunSpec, results: Path, where: str, when: int) -> None:
    """Train until a step, or until a file of that step's checkpoint is half-written."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    step, write_json, sync_file = Run.step, checkpoints.write_json, checkpoints._sync_file

    def dying_step(self: Run) -> dict[str, Any]:
        if where == "step" and self.counters.step + 1 == when:
            die()
        return step(self)

    def dying_json(path: Path, value: Any) -> None:
        if path.stem == where and path.parent.name == f".step{when:08d}.tmp":
            path.write_text('{"half": ')
            die()
        write_json(path, value)

    def dying_sync(path: Path) -> None:
        if where == "tensors" and path.parent.name == f".step{when:08d}.tmp":
            os.truncate(path, path.stat().st_size // 2)
            die()
        sync_file(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "GraderPool", TextGrader)
        patch.setattr(Run, "step", dying_step)
        patch.setattr(checkpoints, "write_json", dying_json)
        patch.setattr(checkpoints, "_sync_file", dying_sync)
        train_run(spec, results=results, threads=1)


def child(spec: RunSpec, results: Path, where: str, when: int) -> int:
    """Train in a process of its own that kills itself at a place; return its exit status."""
    # A server that has imported the libraries forks the children: seconds less for each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "bridge.run.loop"])
    process = context.Process(target=train_and_die, args=(spec, results, where, when))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


@pytest.mark.parametrize(
    ("method", "places"),
    [
        ("bridge", [("step", 3), ("manifest", 4), ("step", 5)]),
        ("alternating", [("tensors", 2), ("state", 4)]),
    ],
)
def test_sigkill_between_steps_and_inside_a_checkpoint(
    base: Path, tmp_path: Path, no_workers: None, method: str, places: list[tuple[str, int]]
) -> None:
    spec = spec_of(base, method)
    expected = results_of(train(spec, tmp_path / "straight"))
    for where, when in places:
        status = child(spec, tmp_path / "killed", where, when)
        assert status == -signal.SIGKILL
        assert not spec.folder(tmp_path / "killed").done.exists()
    assert child(spec, tmp_path / "killed", "nowhere", 0) == 0
    assert results_of(spec.folder(tmp_path / "killed")) == expected


# -- damaged checkpoints ------------------------------------------------------------------------


@pytest.fixture
def stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> Iterator[tuple[RunSpec, Path, dict[str, bytes]]]:
    """A run that stopped before step 5, with checkpoints at 2 and 4, and what it should become."""
    spec = spec_of(base, "sft")
    expected = results_of(train(spec, tmp_path / "straight"))
    revive = stop_before(5, monkeypatch)
    with pytest.raises(Killed):
        train_run(spec, results=tmp_path / "killed", threads=1)
    revive()
    assert [p.name for p in sorted(spec.folder(tmp_path / "killed").resume.iterdir())] == [
        "step00000002",
        "step00000004",
    ]
    yield spec, tmp_path / "killed", expected


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x01
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped byte in the tensors": lambda p: flip(p / "tensors.safetensors", -100),
    "tensors cut short": lambda p: os.truncate(p / "tensors.safetensors", 1000),
    "tensors missing": lambda p: (p / "tensors.safetensors").unlink(),
    "flipped byte in the state": lambda p: flip(p / "state.json", 30),
    "state empty": lambda p: (p / "state.json").write_text(""),
    "manifest missing": lambda p: (p / "manifest.json").unlink(),
    "manifest cut short": lambda p: os.truncate(p / "manifest.json", 20),
    "manifest of another shape": lambda p: (p / "manifest.json").write_text("[1, 2]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    stopped: tuple[RunSpec, Path, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    spec, results, expected = stopped
    resume = spec.folder(results).resume
    DAMAGES[damage](resume / "step00000004")
    assert newest_step(resume, spec) == 2
    said = capsys.readouterr().err
    assert "step00000004" in said and "using the one before it" in said
    assert results_of(train(spec, results)) == expected


def test_a_flipped_byte_anywhere_in_the_manifest_is_no_traceback(
    stopped: tuple[RunSpec, Path, dict[str, bytes]],
) -> None:
    spec, results, _ = stopped
    resume = spec.folder(results).resume
    manifest = resume / "step00000004" / "manifest.json"
    for position in range(manifest.stat().st_size):
        flip(manifest, position)
        assert newest_step(resume, spec) in (2, 4)
        flip(manifest, position)


def test_without_a_sound_checkpoint_the_run_starts_afresh(
    stopped: tuple[RunSpec, Path, dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, results, expected = stopped
    for path in spec.folder(results).resume.iterdir():
        flip(path / "tensors.safetensors", -1)
    assert results_of(train(spec, results)) == expected
    assert "starting the run afresh" in capsys.readouterr().err


def test_a_checkpoint_of_another_configuration_is_refused(
    base: Path, stopped: tuple[RunSpec, Path, dict[str, bytes]]
) -> None:
    spec, results, _ = stopped
    other = spec_of(base, "sft", lr_sft=1e-4)
    before = {p: p.read_bytes() for p in spec.folder(results).resume.rglob("*") if p.is_file()}
    with pytest.raises(RecordError) as refusal:
        train_run(other, results=results, threads=1)
    sentence = str(refusal.value)
    assert spec.train_hash in sentence and other.train_hash in sentence
    assert "delete" in sentence and "\n" not in sentence
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("name", "words"),
    [("train_fingerprint", "version of the training code"), ("weights_hash", "base model")],
)
def test_a_checkpoint_of_other_code_or_another_base_model_is_refused(
    stopped: tuple[RunSpec, Path, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: str,
) -> None:
    spec, results, expected = stopped
    before = {p: p.read_bytes() for p in spec.folder(results).resume.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(session, name, lambda *_: "another")
        with pytest.raises(RecordError, match=f"another {words} .*this run is another.*delete"):
            train_run(spec, results=results, threads=1)
    assert {p: p.read_bytes() for p in before} == before
    assert results_of(train(spec, results)) == expected


def test_a_log_that_lost_lines_is_refused(
    stopped: tuple[RunSpec, Path, dict[str, bytes]],
) -> None:
    spec, results, _ = stopped
    os.truncate(spec.folder(results).dynamics, 10)
    with pytest.raises(RecordError, match="shorter than its checkpoint"):
        train_run(spec, results=results, threads=1)


# -- full disks and second processes ------------------------------------------------------------


def test_a_full_disk_during_a_checkpoint_is_one_sentence_and_loses_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    spec = spec_of(base, "sft")
    expected = results_of(train(spec, tmp_path / "straight"))
    save_file = checkpoints.save_file

    def full(tensors: Any, path: Path) -> None:
        if "00000004" in str(path):
            path.write_bytes(b"half")
            raise SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        save_file(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(RecordError, match="the disk is full"):
        train_run(spec, results=tmp_path / "full", threads=1)
    folder = spec.folder(tmp_path / "full")
    assert not folder.done.exists()
    assert newest_step(folder.resume, spec) == 2
    monkeypatch.setattr(checkpoints, "save_file", save_file)
    assert results_of(train(spec, tmp_path / "full")) == expected


def test_the_librarys_words_for_a_failed_write_are_understood(tmp_path: Path) -> None:
    """Its error has no errno; the number is read from the text, here of a real refusal."""
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "from bridge.models.checkpoint import writing_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    with writing_tensors(path):\n"
        "        save_file({'a': torch.zeros(100_000)}, path)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.safetensors")],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "27"  # EFBIG


def test_other_errors_of_the_library_are_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError), writing_tensors(tmp_path):
        raise SafetensorError("some tensors share memory")


def test_half_written_checkpoints_are_removed_by_the_next(tmp_path: Path) -> None:
    left_over = tmp_path / ".step00000001.tmp"
    left_over.mkdir()
    (left_over / "tensors.safetensors").write_bytes(b"half")
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, step, {"train_hash": "h", "step": step}, [("a", torch.ones(2))])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step00000004", "step00000006"]


def test_the_checkpoints_outlive_a_failure_to_write_done(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    spec = spec_of(base, "sft")
    write_json = run_module.write_json

    def full(path: Path, value: Any) -> None:
        if path.name == "done.json":
            raise RecordError("the disk is full")
        write_json(path, value)

    monkeypatch.setattr(run_module, "write_json", full)
    with pytest.raises(RecordError):
        train_run(spec, results=tmp_path, threads=1)
    assert newest_step(spec.folder(tmp_path).resume, spec) == 4


def test_a_second_process_is_refused(base: Path, tmp_path: Path, no_workers: None) -> None:
    spec = spec_of(base, "sft")
    refused = pytest.raises(BusyError, match=f"pid {os.getpid()} on")
    with exclusive(spec.folder(tmp_path)), refused:
        train_run(spec, results=tmp_path, threads=1)
    train(spec, tmp_path)


def test_the_lock_of_a_killed_process_is_free(base: Path, tmp_path: Path, no_workers: None) -> None:
    spec = spec_of(base, "sft")
    assert child(spec, tmp_path, "step", 1) == -signal.SIGKILL
    assert spec.folder(tmp_path).lock.exists()
    train(spec, tmp_path)


# -- what a checkpoint holds --------------------------------------------------------------------


def test_a_checkpoint_holds_every_group_and_every_optimiser_state(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    spec = spec_of(base, "bridge")
    stop_before(3, monkeypatch)
    with pytest.raises(Killed):
        train_run(spec, results=tmp_path, threads=1)
    tensors = load_file(spec.folder(tmp_path).resume / "step00000002" / "tensors.safetensors")
    kinds = {name.split("|")[0] for name in tensors}
    assert kinds == {"base", "adapter", "shadow", "reference", "optimizer"}
    optimizers = {name.split("|")[1] for name in tensors if name.startswith("optimizer|")}
    assert optimizers == {f"{g}/main/joint" for g in ("base", "adapter", "shadow")}
    moments = [n for n in tensors if n.startswith("optimizer|base/")]
    n_base = sum(name.startswith("base|") for name in tensors)
    assert len(moments) == 3 * n_base  # step, first and second moment of each parameter
