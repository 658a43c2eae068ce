"""Seeds from named components.

Every random stream of the harness is named by what it is for, never by when it was asked for, so
that two methods can share a data order and a resumed run draws what the undisturbed one would have
drawn. Python's own ``hash`` is salted per process for strings and is not used.
"""

from __future__ import annotations

import hashlib


def derive_seed(*components: str | int) -> int:
    """Return a 63-bit seed that depends on the components and their order only.

    Example: ``derive_seed("rollout", run_seed, step, question_id, sample)``.
    """
    joined = "\x1f".join(f"{type(c).__name__}:{c}" for c in components)
    return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "big") >> 1


def bucket(text: str, *, n_buckets: int) -> int:
    """Return the bucket in [0, n_buckets) that a text always falls into (used to split data)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % n_buckets
