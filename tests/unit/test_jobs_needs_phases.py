"""Steps by phase: exact where they can be counted, and counted without asking for every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bridge.jobs.needs.methods import cost_of
from bridge.jobs.needs.phases import MOST_ASKED, expected_steps
from bridge.methods.base import Method
from bridge.methods.registry import load_method
from bridge.step.rows import Phase
from bridge.store.settings import TrainingConfig

TRAINING = TrainingConfig(
    max_response_tokens=8, lr_sft=1e-3, lr_rl=1e-3, probe_every=1, checkpoint_every=1
)


def made(name: str, **options: Any) -> Method:
    method = load_method(name)
    return method(method.Options.model_validate(options), TRAINING)


class Counted(Method):
    """Steps of two kinds by turns, after one step of another stage; it counts the questions."""

    n_steps = 100_000

    def __init__(self) -> None:
        self.asked = 0

    def phase(self, step: int) -> Phase:
        self.asked += 1
        return Phase("joint", "first") if step == 1 else Phase("rl" if step % 2 else "sft")


@pytest.mark.parametrize(
    "method",
    [
        made("alternating", steps=40),
        made("cold_start", sft_steps=30, rl_steps=40),
        made("sasr", warmup_steps=10, steps=60, gamma=1.0),
        made("untrained"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_few_steps_are_counted(method: Method) -> None:
    assert expected_steps(method) == Counter(map(method.phase, range(1, method.n_steps + 1)))


def test_stages_of_one_kind_are_exact_at_any_length() -> None:
    found = expected_steps(made("cold_start", sft_steps=7, rl_steps=99_991))
    assert found == {Phase("sft", "sft"): 7, Phase("rl", "rl"): 99_991}


def test_many_steps_are_estimated_from_a_few() -> None:
    method = Counted()
    found = expected_steps(method)
    assert method.asked < MOST_ASKED + 100
    assert found[Phase("joint", "first")] == 1
    assert sum(found.values()) == pytest.approx(method.n_steps)
    # Four standard deviations.
    assert found[Phase("rl")] / method.n_steps == pytest.approx(0.5, abs=4 * 0.0224)


@pytest.mark.parametrize(
    ("method", "gradients", "optimizers", "sft_passes", "scored"),
    [
        (made("dft", steps=3), 1, 1, 1, {"demonstration": 0}),
        (made("idft", steps=3), 1, 1, 1, {"demonstration": 1}),
        (made("psft", steps=3, rl_steps=3), 1, 1, 1, {"demonstration": 1}),
        (made("asft", steps=3), 2, 1, 2, {"demonstration": 1}),
        (made("asft", steps=3, anchor=0.0), 1, 1, 1, {"demonstration": 1}),
        (made("relift", steps=3), 1, 2, 1, {}),
        (made("mifo", steps=3), 1, 2, 1, {"demonstration": 1}),
        (made("mifo", steps=3, rho=1.0), 1, 2, 1, {"demonstration": 0}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else None,
)
def test_what_columns_anchors_and_buffers_cost(
    method: Method,
    gradients: int,
    optimizers: int,
    sft_passes: int,
    scored: dict[str, int],
) -> None:
    cost = cost_of(method)
    assert (cost.gradients_at_once, cost.optimizers_at_once) == (gradients, optimizers)
    assert cost.passes["sft"] == {"demonstration": sft_passes} and cost.scored == scored
