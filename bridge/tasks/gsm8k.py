r"""``gsm8k``: grade-school word problems; 7,473 to train on (a part is held out), 1,319 to test.

The human solutions lose their calculator marks (``<<2+3=5>>``); ``#### 5`` becomes ``\boxed{5}``.
"""

from __future__ import annotations

import re

from bridge.tasks.real.family import SingleSource
from bridge.tasks.real.prompts import BOXED
from bridge.tasks.real.sources import Item

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def _completion(item: Item, solution: str) -> str:
    steps, _, answer = _CALCULATOR.sub("", solution).rpartition("####")
    return f"{steps.strip()}\nThe final answer is $\\boxed{{{answer.strip().replace(',', '')}}}$."


FAMILY = SingleSource("gsm8k", "gsm8k_train", "gsm8k_test", "gsm8k", BOXED, _completion)
