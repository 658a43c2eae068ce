"""The pack for a machine with a GPU: what goes into it, that it comes together there; stages."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.first_run import cells, packing, stages
from benchmarks.first_run.stages import FirstRun, attempted, slug
from bridge.plan.grid import load_run
from bridge.store.records import write_json

pytestmark = pytest.mark.slow
SCRIPT = packing.ROOT / "benchmarks" / "gpu_first_run.sh"
PROGRAM = """
import json, os, sys
from pathlib import Path
told = [os.environ[name] for name in ("BRIDGE_WHEELS", "BRIDGE_DATA_ROOT", "FIRST_RUN_COMMIT")]
Path(sys.argv[1]).write_text(json.dumps([sys.argv[2:], *told]))
"""


def test_what_is_missing_is_computed(tmp_path: Path) -> None:
    listed = tmp_path / "installed.txt"
    listed.write_text("torch==2.11.0\nhuggingface_hub @ file:///x\n\nPyYAML==6.0.3\n")
    there = packing.listed(listed)
    assert there == {"torch", "huggingface-hub", "pyyaml"}
    lock = ["# a remark", "torch==2.13.0", "huggingface-hub==2.4.0", "peft==0.21.2", ""]
    assert packing.lacking(lock, there) == ["peft==0.21.2"]
    needed = packing.required_by("torch")
    assert {"torch", "sympy", "jinja2", "markupsafe"} <= needed and "transformers" not in needed
    pins = packing.LOCK.read_text().splitlines()
    without = packing.lacking(pins, needed | set(packing.BARE))
    assert any(pin.startswith("pydantic==") for pin in without)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack whose repository has stages that only say how they were called."""
    folder = tmp_path / "pack"
    (folder / "model").mkdir(parents=True)
    (folder / "wheels").mkdir()
    (folder / "commit").write_text("abc\n")
    with tarfile.open(folder / "data.tar.gz", "w:gz") as archive:
        archive.add(folder / "commit", arcname="svamp/train.jsonl")
    (folder / "model" / "m.whl").write_bytes(os.urandom(200_000))
    with tarfile.open(folder / "repository.tar.gz", "w:gz") as archive:
        for name, text in (("__init__", ""), ("stages", PROGRAM)):
            member = tarfile.TarInfo(f"benchmarks/first_run/{name}.py")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return folder


def call(tmp_path: Path, part: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FIRST_RUN_HOME": str(tmp_path / "home"), "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)
    command = ["bash", str(part / SCRIPT.name), "call", str(part), *more]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_parts_come_together_on_the_other_machine(tmp_path: Path, pack: Path) -> None:
    parts = packing.cut(pack, tmp_path / "parts", most=150_000)
    assert len(parts) == 3
    for part in parts:
        assert sum(f.stat().st_size for f in part.iterdir()) <= 150_000
    result, early = tmp_path / "out.json", tmp_path / "home/early.json"
    done = call(tmp_path, parts[2])
    assert done.returncode == 0 and "1 of 3 parts" in done.stdout and not early.exists()
    for _ in range(2):
        done = call(tmp_path, parts[0], "", "--seconds", "9")
        assert done.returncode == 0 and "2 of 3 parts" in done.stdout, done.stderr
        assert json.loads(early.read_text())[0] == ["--stages", "early", "--seconds", "9"]
    assert not result.exists()
    done = call(tmp_path, parts[1], str(result), "--seconds", "9")
    assert done.returncode == 0, done.stderr
    words, wheels, data, commit = json.loads(result.read_text())
    assert words == ["--stages", "late", "--seconds", "9"] and commit == "abc"
    assert Path(data, "svamp/train.jsonl").read_text() == "abc\n"
    assert Path(wheels, "m.whl").read_bytes() == (pack / "model/m.whl").read_bytes()


def test_where_the_first_part_comes_last_all_stages_run_at_once(tmp_path: Path, pack: Path) -> None:
    parts = packing.cut(pack, tmp_path / "parts", most=150_000)
    for part in parts[1:]:
        assert call(tmp_path, part).returncode == 0
    result = tmp_path / "out.json"
    assert call(tmp_path, parts[0], str(result)).returncode == 0
    assert json.loads(result.read_text())[0] == ["--stages", "all"]


def test_a_damaged_part_and_one_of_another_pack(tmp_path: Path, pack: Path) -> None:
    parts = packing.cut(pack, tmp_path / "parts", most=150_000)
    for part in parts[:2]:
        call(tmp_path, part)
    piece = next(parts[2].glob("piece.*"))
    whole = piece.read_bytes()
    piece.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = call(tmp_path, parts[2])
    assert done.returncode == 2 and "damaged on its way; bring it again" in done.stderr
    (pack / "model" / "m.whl").write_bytes(os.urandom(200_000))
    other = packing.cut(pack, tmp_path / "other", most=150_000)
    assert "1 of 3 parts" in call(tmp_path, other[0]).stdout, "the old ones are put away"


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    done = call(tmp_path, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is no part" in done.stderr


def test_a_stage_that_fails_says_why(tmp_path: Path) -> None:
    def broken(_: FirstRun) -> dict[str, object]:
        raise ValueError("no\nsuch thing")

    run = FirstRun(tmp_path, 0.0, small=True, results=tmp_path)
    assert attempted(broken, run) == {"failed": "ValueError: no such thing"}
    assert attempted(lambda _: {"a": 1}, run) == {"a": 1}
    assert run.left_s == 0
    assert slug("cuda: NVIDIA H100 80GB HBM3") == "cuda-nvidia-h100-80gb-hbm3"


def test_the_same_run_twice_is_the_same_bytes(tmp_path: Path) -> None:
    run = FirstRun(tmp_path, stages.time.monotonic() + 3000, small=True, results=tmp_path)
    found = stages.deterministic(run)
    assert found["same_log"] and found["same_weights"]


def test_cells_are_made_in_order_while_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word problems seed by seed, then GSM8K; a cell without a record says why."""
    asked: list[str] = []
    clock = iter([*range(5000, 0, -100), *[0] * 99])
    monkeypatch.setattr(cells, "WORKERS", 1)

    def job(words: list[str], results: Path, seconds: float) -> str:
        named = dict(zip(words[1::2], words[2::2], strict=True))
        if words[0] == "prepare":
            return "no wheel"
        cell = (named["--dataset"], named["--method"], named["--seed"])
        asked.append("/".join((words[0], *cell)))
        overrides = json.loads(named["--overrides"])
        names = ("smollm2-135m-warm", *cell[:2], int(cell[2]))
        spec = load_run("pocket", names, root=packing.ROOT, overrides=overrides)
        folder = spec.folder(results)
        done = {"tokens": {}, "seconds": {}, "memory_by_stage_gib": {}}
        counts = {"status": "done", "benchmarks": {"b": {"correct": 1, "n": 2}}}
        if words[0] == "train":
            write_json(folder.done, done)
        elif cell[1] != "sft":
            write_json(folder.scores, counts)
        return "the last line"

    monkeypatch.setattr(cells, "_job", job)
    monkeypatch.setenv("BRIDGE_DATA_ROOT", str(tmp_path / "data"))
    for module in ("word_problems", "real.family"):
        monkeypatch.setattr(f"bridge.tasks.{module}.check_files", lambda *_: None)
    found = cells.pocket_cells(tmp_path / "results", lambda: float(next(clock)), small=False)
    assert found["prepare"]["failed"] == "no wheel" and found["suite"] == "pocket"
    made = list(found["cells"])
    first = ("base", "sft", "rl_zero", "bridge", "mixing", "cold_start")
    assert made[:6] == [f"word_problems/{row}/seed0" for row in first]
    assert made[9:15] == [f"word_problems/{row}/seed1" for row in first] and len(made) < 20
    assert found["cells"][made[0]]["accuracy"] == {"b": [1, 2]}
    assert found["cells"][made[1]] == {"failed": "evaluate: the last line"}
    assert asked[:2] == ["train/word_problems/base/0", "evaluate/word_problems/base/0"]
