"""``untrained``: the base model as it is (the tables' row ``base``)."""

from __future__ import annotations

from bridge.methods.base import Method


class Untrained(Method):
    """See ``docs/methods/base.md``."""

    @property
    def n_steps(self) -> int:
        return 0


METHOD = Untrained
