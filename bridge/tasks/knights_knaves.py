r"""``knights_knaves``: who tells the truth; 4,500 puzzles of 3 to 7 people to train on, 500 test.

The gold answer lists everybody's role; :mod:`bridge.grading.logic` compares such lists. The
demonstrations are the synthetic chains of the origin with the list in a box.
"""

from __future__ import annotations

from bridge.grading.logic import roles
from bridge.tasks.real.family import SingleSource
from bridge.tasks.real.prompts import ROLES
from bridge.tasks.real.sources import Item


def _completion(item: Item, solution: str) -> str:
    listed = ", ".join(f"{name} is a {role}" for name, role in (roles(item.answer) or {}).items())
    return f"{solution.strip()}\n\\boxed{{{listed}}}"


FAMILY = SingleSource("knights_knaves", "kk_train", "kk_test", "kk_test", ROLES, _completion)
