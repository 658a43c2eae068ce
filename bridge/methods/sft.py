"""``sft``: supervised fine-tuning on the demonstrations, token mean of -log p."""

from __future__ import annotations

from typing import ClassVar

from bridge.methods.base import Method
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps


class SFT(Method):
    """See ``docs/methods/sft.md``."""

    class Options(Closed):
        """Options of ``sft``."""

        steps: Steps
        """Optimiser steps of ``sft_batch_size`` demonstrations each."""

    options: Options
    tuning: ClassVar = {}

    def phase(self, step: int) -> Phase:
        return Phase("sft")


METHOD = SFT
