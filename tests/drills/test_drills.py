"""The quick drills; `make drill` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.base import Drill
from tests.drills.catalogue import QUICK, Undisturbed, run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed.make(tmp_path_factory.mktemp("drills") / "undisturbed")


@pytest.mark.parametrize("drill", QUICK, ids=lambda drill: drill.fault)
def test_a_fault_leaves_the_final_tables_as_they_are(
    drill: Drill, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    row = run(drill, undisturbed, tmp_path)
    if row.verdict.startswith("not run"):
        pytest.skip(row.verdict)
    assert row.verdict == "equal", row
