"""An optimiser's moments leave the device between its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bridge.models import moments
from bridge.models.moments import moments_here, send_to_host

META = torch.device("meta")


def stepped(device: str) -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.ones(3, device=device))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer


def test_moments_leave_and_the_number_of_the_step_stays() -> None:
    optimizer = stepped("cpu")
    send_to_host(optimizer, META)
    (kept,) = optimizer.state.values()
    assert {name: value.device.type for name, value in kept.items()} == {
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
        "step": "cpu",
    }


@pytest.mark.parametrize(("waiting", "moved"), [(True, ["meta", "cpu"]), (False, [])])
def test_they_come_to_their_weights_and_go_back(
    monkeypatch: pytest.MonkeyPatch, waiting: bool, moved: list[str]
) -> None:
    seen: list[str] = []

    def note(kept: dict[str, Any], device: torch.device) -> None:
        assert kept.keys() == {"exp_avg", "exp_avg_sq", "step"}
        seen.append(device.type)

    monkeypatch.setattr(moments, "_move", note)
    with moments_here(stepped("meta"), waiting=waiting):
        assert seen == moved[:1]
    assert seen == moved
