"""Settings that every test shares: one thread per test process, no network, no window for plots.

Also which tests are slow, and which may be skipped where nothing may be missing (``CI=true``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bridge.plan.grid import Plan

# Set before torch, tokenizers or matplotlib are imported; a test that needs others sets them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


ALLOWED_SKIPS = {
    r"needs vLLM": "its environment is another one; `make test-vllm`",
    r"no trackers are installed": "they have an environment of their own; `make test-tracking`",
    r"no Python 3\.\d+ on this machine": "a machine need not have every Python",
    r"a SLURM cluster: `make test-cluster`": "they take ten minutes; .ci/run runs one of them",
    r"no CUDA device|this machine has a GPU": "there is one kind of machine at a time",
    r"no real data": "the files may not be redistributed; docs/data.md says where they are",
    r"not run": "drills that `make drill` runs",
}
"""Reasons of skips that .ci/run lets pass, and why. Any other skip fails it."""

_SLOW_FIXTURES = {"base", "checkpoint", "fresh", "finished", "world", "single"}
_SLOW_PARTS = re.compile(
    r"tests/(integration|drills|browser|cluster|fuzz)/"
    r"|test_(methods|run|studies|analysis_(figures|latex|coverage|report|error_rates))"
    r"|test_(grading_(parity|pool|hostile|kinds|own_reward)|hostile_texts|tasks_(real|contract|families))"
    r"|test_(environments|jobs_(needs_memory|needs_report|warm)|two_checkouts)"
    r"|test_(evaluation|collect_caching|step_(trainer|sampler|options)|models|engines)"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make quick` leaves out what trains a model, starts a program, simulates or draws."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if _SLOW_PARTS.search(item.path.as_posix()) or fixtures & _SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where nothing may be missing, a skip that is not on the list is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return
    reasons = {str(report.longrepr) for report in reporter.stats.get("skipped", [])}
    unknown = [r for r in reasons if not any(re.search(known, r) for known in ALLOWED_SKIPS)]
    for reason in sorted(unknown):
        reporter.write_line(
            f"a skip that is not allowed here (tests/conftest.py): {reason}", red=True
        )
    if unknown:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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


@pytest.fixture
def planned(tmp_path: Path, root: Path) -> Callable[[Callable[[dict[str, Any]], None]], Plan]:
    """Plan the smoke suite after a change of its raw text."""
    from tests.fixtures.planning import plan_changed

    return partial(plan_changed, tmp_path, root)
