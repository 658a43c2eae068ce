"""A job in the warm process says, returns and dies as it would by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.jobs import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks; Linux only")

# The libraries are left out and the command line is replaced: this is about what stands between.
SERVER = """
import os, signal, sys, time
from pathlib import Path
from bridge.jobs import cli, warm

def job():
    what = sys.argv[2]
    Path("pid").write_text(str(os.getpid()))
    print("out", os.environ.get("ASKED"), Path.cwd().name, warm.VARIABLE in os.environ, flush=True)
    print("err", file=sys.stderr)
    if what == "code":
        sys.exit(3)
    if what == "die":
        os.kill(os.getpid(), signal.SIGABRT)
    if what == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        Path("waiting").touch()
        time.sleep(60)

warm._import_everything = lambda: None
cli.main = job
warm.main(sys.argv[1:])
"""
CLIENT = """
import sys
from bridge.jobs import warm
warm.hand_over()
print("cold")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "socket")])
    yield process
    process.kill()
    process.wait()


def command(folder: Path, *argv: str) -> subprocess.Popen[str]:
    until = time.monotonic() + 30
    while not (folder / "socket").exists() and time.monotonic() < until:
        time.sleep(0.01)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *argv],
        cwd=work,
        env={**os.environ, warm.VARIABLE: str(folder / "socket"), "ASKED": "this"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("what", "status"), [("well", 0), ("code", 3), ("die", -signal.SIGABRT)])
def test_a_job_speaks_and_ends_as_by_itself(tmp_path: Path, what: str, status: int) -> None:
    job = command(tmp_path, "train", what)
    said, complained = job.communicate(timeout=60)
    # The libraries' variable is gone: what the job starts itself starts cold.
    assert said == "out this work False\n" and complained == "err\n"
    assert job.returncode == status


@pytest.mark.usefixtures("server")
def test_several_jobs_at_once_each_get_their_own_end(tmp_path: Path) -> None:
    jobs = [command(tmp_path, "evaluate", what) for what in ("code", "well", "die", "code")]
    for job in jobs:
        job.communicate(timeout=60)
    assert [job.returncode for job in jobs] == [3, 0, -signal.SIGABRT, 3]


@pytest.mark.usefixtures("server")
def test_a_request_to_stop_reaches_the_job(tmp_path: Path) -> None:
    job = command(tmp_path, "train", "wait")
    wait_for(tmp_path / "work" / "waiting")
    job.terminate()
    job.communicate(timeout=60)
    assert job.returncode == 75


@pytest.mark.usefixtures("server")
def test_a_job_dies_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    job = command(tmp_path, "train", "wait")
    wait_for(tmp_path / "work" / "waiting")
    pid = int((tmp_path / "work" / "pid").read_text())
    job.kill()
    job.communicate(timeout=60)
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_a_job_dies_with_the_warm_process_and_says_so(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    job = command(tmp_path, "train", "wait")
    wait_for(tmp_path / "work" / "waiting")
    server.kill()
    said, _ = job.communicate(timeout=60)
    assert job.returncode == -signal.SIGKILL
    assert "the warm process ended with the job in it" in said
    again = command(tmp_path, "train", "well")
    assert again.communicate(timeout=60)[0].endswith("is gone; starting cold.\ncold\n")


@pytest.mark.usefixtures("server")
def test_edited_code_starts_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm process holds the code of before; a record must not name the code of after."""
    edited = CLIENT.replace(
        "warm.hand_over()", "warm.identity = lambda: 'another'\nwarm.hand_over()"
    )
    monkeypatch.setitem(globals(), "CLIENT", edited)
    job = command(tmp_path, "train", "well")
    assert job.communicate(timeout=60)[0].endswith(
        "is not the warm process's; starting cold.\ncold\n"
    )


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("argv", [[], ["status"], ["tables", "--suite", "x"]])
def test_other_commands_stay_where_they_are(tmp_path: Path, argv: list[str]) -> None:
    assert command(tmp_path, *argv).communicate(timeout=60)[0] == "cold\n"


def test_the_identity_is_of_the_code_on_the_disk(tmp_path: Path) -> None:
    first = warm.identity()
    assert first == warm.identity()
    path = Path(warm.__file__)
    before = path.stat()
    try:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert warm.identity() != first
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_it_ends_with_its_owner(tmp_path: Path) -> None:
    owner = (
        "import subprocess, sys, time\n"
        "server = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", owner, SERVER, str(tmp_path / "socket")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    wait_for(tmp_path / "socket")
    process.kill()
    process.communicate()
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() and not (tmp_path / "socket").exists()
