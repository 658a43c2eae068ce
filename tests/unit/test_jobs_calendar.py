"""``bridge plan``: the order of runs, their times on several cards, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.jobs.calendar.cells import Cell, cells_of
from bridge.jobs.calendar.ordering import REST, stages
from bridge.jobs.calendar.schedule import (
    REQUEUED_H,
    Slot,
    _with_interruptions,
    ends_h,
    peaks,
    scheduled,
)
from bridge.jobs.calendar.text import calendar_text
from bridge.jobs.cli import main
from bridge.jobs.needs.devices import device
from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import ConfigError

CHEAP, DEAR = ("small", "data"), ("large", "data")
ONE = Cell(CHEAP, "a", "a", 0, 1, 1.0, 0.5, 0.0, 10.0, 5.0, 1.0)


def cell(row: str, hours: float, **changed: Any) -> Cell:
    return replace(ONE, **{"row": row, "method": row, "hours": hours} | changed)


def test_the_comparison_comes_first_and_then_what_costs_least() -> None:
    hours = {"bridge": 2.0, "start": 1.0, "luffy": 3.0, "sft": 0.5, "x": 9.0}
    cells = [
        cell(row, hours[row] * times, seed=seed, block=block)
        for block, times in ((DEAR, 10), (CHEAP, 1))
        for row in hours
        for seed in (0, 1)
    ]
    cells += [cell("start_tuned", 1.0, method="start"), cell("base", 0.1, method="untrained")]
    claims = {
        "luffy-above-sft": ("luffy", "sft"),
        "above-start": ("bridge", "start"),
        "above-sft": ("bridge", "sft"),
        "of-others": ("bridge", "dapo"),
    }
    found = stages(cells, claims, ("bridge", "start"))
    run = [c for stage in found for c in stage.cells]
    assert len(run) == len(set(run)) == len(cells) and {*run} == {*cells}
    first = found[0]
    assert (first.title, first.block) == ("bridge against start", CHEAP)
    assert first.claims == ("above-start",)
    assert {c.row for c in first.cells} == {"bridge", "start", "start_tuned", "base"}
    seeds = [c.seed for c in first.cells]
    assert seeds == sorted(seeds), "one after the other"
    assert [(s.title, s.block, s.device_hours) for s in found[1:]] == [
        ("above-sft", CHEAP, 1.0),
        ("luffy-above-sft", CHEAP, 6.0),
        ("above-sft", DEAR, 50.0),
        ("above-start", DEAR, 20.0),
        ("luffy-above-sft", DEAR, 60.0),
        (REST, None, 198.0),
    ]
    with pytest.raises(ConfigError, match="no block of the suite has both bridge and dapo"):
        stages(cells, claims, ("bridge", "dapo"))


def test_no_run_overtakes_another() -> None:
    cells = [cell("a", 3.0), cell("b", 2.0, cards=2), cell("c", 1.0), cell("d", 1.0)]
    assert [(s.begin_h, s.end_h) for s in scheduled(cells, 2)] == [(0, 3), (3, 5), (5, 6), (5, 6)]


@pytest.mark.parametrize("between_h", [1.0, 4.0])
def test_interruptions_take_what_theory_says(between_h: float) -> None:
    """From checkpoint to checkpoint: (exp(rate b) - 1) (1 / rate + restart) on average."""
    rate, start_h = 0.3, 0.05
    run = cell("a", 4.0, between_h=between_h, start_h=start_h)
    rng = np.random.default_rng(0)
    taken = np.array([_with_interruptions(run, rate, rng) for _ in range(4000)])
    parts = run.hours / between_h
    expected = parts * np.expm1(rate * between_h) * (1 / rate + REQUEUED_H + start_h)
    assert taken.mean() == pytest.approx(expected, abs=4 * taken.std() / np.sqrt(len(taken)))
    assert taken.min() == pytest.approx(run.hours)


def test_more_interruptions_end_later() -> None:
    cells = [cell(str(i), 5.0) for i in range(8)]
    assert ends_h(cells, 2, 0.0) == (20.0, 20.0)
    calm, wild = ends_h(cells, 2, 0.5), ends_h(cells, 2, 5.0)
    assert 20.0 <= calm[0] <= calm[1] < wild[0] <= wild[1]


def test_policies_stay_on_the_disk() -> None:
    slots = [Slot(ONE, 0, 2), Slot(ONE, 1, 3), Slot(ONE, 3, 4)]
    assert peaks(slots) == (20.0, 10.0), "two at a time; at hour 3 one ends as the next begins"
    later = [*slots, *[Slot(ONE, 4 + i, 5 + i) for i in range(6)]]
    assert peaks(later)[1] == 8 + 5


@pytest.fixture(scope="module")
def paper(root: Path) -> Plan:
    return load_plan("paper", root=root)


def test_the_paper_on_four_cards(paper: Plan) -> None:
    a100 = device("a100-80gb")
    cells, spreads = cells_of(paper, a100, 4)
    assert len(cells) == len(paper.runs)
    large = [c for c in cells if c.block[0] == "qwen3-8b-base" and c.method != "untrained"]
    assert {c.cards for c in large} == {4}
    assert {c.cards for c in cells if c.block[0] != "qwen3-8b-base"} == {1}
    (spread,) = spreads
    assert "ranks: 4" in spread.settings
    claims = {"x": ("bridge", "mixing")}
    text = calendar_text(paper, a100, 4, claims, ("bridge", "cold_start"), 0.2)
    assert "bridge against cold_start, qwen2.5-3b x limr" in text.splitlines()[3]
    assert "x, qwen3-8b-base x math8k" in text and REST in text
    assert "(all trained rows): 4 of them a" in text and "3 claims in their blocks" in text
    with pytest.raises(ConfigError, match="qwen3-8b-base/math8k/sft does not fit 1 x a100-80gb"):
        cells_of(paper, a100, 1)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--suite", "smoke", "--device", "l4", "--interruptions-per-day", "0"])
    said = capsys.readouterr().out
    assert said.startswith("suite smoke on 1 x l4, predicted: 10 runs")
    assert "bridge-above-cold-start" in said and "ends on day 0.0" in said
    for wrong in (["--count", "0"], ["--interruptions-per-day", "nan"], ["--device", "l4x"]):
        with pytest.raises(SystemExit) as caught:
            main(["plan", "--suite", "smoke", "--device", "l4", *wrong])
        assert caught.value.code == 2
