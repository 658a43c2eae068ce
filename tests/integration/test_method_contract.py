"""``bridge test-method`` on the method of somebody else: what holds, and the part that does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORGETFUL = '''
from bridge.methods.mixing import Mixing


class Forgetful(Mixing):
    """Its weight depends on a count that no checkpoint holds."""

    seen = 0

    def mix(self, step, stats):
        self.seen += 1
        return 0.1 * self.seen, 0.5


METHOD = Forgetful
'''


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bridge", "test-method", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_what_is_kept_and_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    done = run(tmp_path, "forgetful.py")
    assert done.returncode == 1, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("ok", "FAIL"))]
    assert [line.split(":")[0] for line in said] == [
        "ok    closed options",
        "ok    planned without torch",
        "ok    trains",
        "ok    repeats",
        "FAIL  survives",
        "ok    counts globally",
    ]
    assert "state_dict" in said[4]


def test_a_name_that_is_no_method_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "mixin")
    assert done.returncode == 2 and "did you mean 'mixing'?" in done.stderr
    assert done.stderr.count("\n") == 1
