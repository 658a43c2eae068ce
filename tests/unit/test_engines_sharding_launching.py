"""The ranks of a run end together, with one sentence, whatever ends the first of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.engines.sharding import launching
from bridge.engines.sharding.launching import RankError, launch
from bridge.machine.interruption import Interrupted
from bridge.store.records import BusyError

# Stands for a training process: no torch, so that a rank starts in a moment.
SCRIPT = """
import atexit, os, signal, sys, time
from pathlib import Path
from bridge.machine.interruption import Interrupted, catch_signals, requested
from bridge.store.records import BusyError, RecordError
from bridge.engines.sharding.launching import is_rank, reporting

rank, what, folder = int(os.environ["RANK"]), sys.argv[1], Path(sys.argv[2])
assert is_rank() and os.environ["WORLD_SIZE"] == "2" and os.environ["LOCAL_RANK"] == str(rank)
catch_signals(at_once=False)
(folder / f"{rank}.started").touch()
while len(list(folder.glob("*.started"))) < 2:
    time.sleep(0.01)
if what == "well":  # as a library's thread does now and then while the interpreter shuts down
    atexit.register(os.abort)
with reporting(lambda error: isinstance(error, RecordError)):
    if what == "wait":
        while not requested():
            time.sleep(0.01)
        raise Interrupted("stopped after step 3", progressed=True)
    if rank == 1:
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(7)
        if what == "sentence":
            raise RecordError("the disk is full; free some space.")
        if what == "busy":
            raise BusyError("another process writes here")
        if what == "defect":
            raise ValueError("two\\nlines")
    elif what != "well":
        # What the other rank notices of it, or nothing at all.
        time.sleep(0.3 if what in ("sentence", "defect") else 600)
        raise RuntimeError("Connection closed by peer")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Start two ranks that do something."""
    monkeypatch.setattr(launching, "GRACE_S", 1.0)
    script = tmp_path / "rank.py"
    script.write_text(SCRIPT)
    begun = time.monotonic()

    def start(what: str) -> None:
        def stopping() -> bool:
            both = len(list(tmp_path.glob("*.started"))) == 2
            return what == "wait" and both and time.monotonic() > begun + 0.5

        launch([sys.executable, str(script), what, str(tmp_path)], 2, stopping=stopping)

    return start


def test_ranks_that_end_well_say_nothing_whatever_their_libraries_do_then(
    run: Callable[[str], None],
) -> None:
    run("well")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("kill", "rank 1 of 2 was ended by SIGKILL"),
        ("exit", "exit code 7"),
        ("sentence", "the disk is full; free some space."),
        ("defect", "rank 1 of 2 failed: ValueError: two lines"),
    ],
)
def test_the_first_failure_is_told_in_one_line(
    run: Callable[[str], None], capfd: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    with pytest.raises(RankError) as caught:
        run(what)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    # A traceback is for defects, and once.
    assert capfd.readouterr().err.count("Traceback") == (what == "defect")


def test_a_run_that_another_process_trains_is_no_failure(run: Callable[[str], None]) -> None:
    with pytest.raises(BusyError, match="another process"):
        run("busy")


def test_a_request_to_stop_reaches_all_ranks(run: Callable[[str], None]) -> None:
    with pytest.raises(Interrupted, match="stopped after step 3") as caught:
        run("wait")
    assert caught.value.progressed
