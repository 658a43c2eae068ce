"""Several processes that train one run, over ``torch.distributed``.

They are started by :mod:`bridge.engines.sharding.launching` or by ``torchrun``: both set the usual
variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). What is sent are tensors and,
through ``all_gather_object``, values that these processes made themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bridge.machine.ranks import Ranks
from bridge.store.schema import ConfigError

T = TypeVar("T")

TIMEOUT_S = 3600
"""How long a rank waits for the others. A rank that dies is noticed at once; this is for one that
hangs, and must be longer than the slowest share of a step's rollouts."""


class Several(Ranks):
    """The ranks of the default process group."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def join(self, own: Sequence[T]) -> list[T]:
        shares: list[Any] = [None] * self.size
        dist.all_gather_object(shares, list(own))
        joined: list[Any] = [None] * sum(map(len, shares))
        for rank, share in enumerate(shares):
            joined[rank :: self.size] = share
        return joined

    def total(self, *values: float) -> tuple[float, ...]:
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def most(self, value: int) -> int:
        largest = torch.tensor(value)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def norm(self, part: Tensor) -> float:
        return math.sqrt(self.total(float(part.norm()) ** 2)[0])

    def dot(self, left: Tensor, right: Tensor) -> float:
        return self.total(float(left @ right))[0]

    def from_first(self, make: Callable[[], T]) -> T:
        box: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0)
        made: T = box[0]
        return made


@contextlib.contextmanager
def joined(size: int) -> Iterator[Several]:
    """Be one of ``size`` ranks inside.

    Raises:
        ConfigError: the launcher started another number of processes.
    """
    started = int(os.environ["WORLD_SIZE"])
    if started != size:
        raise ConfigError(
            f"training.sharding.ranks is {size} but {started} processes were started; start as "
            "many as the configuration says."
        )
    if torch.cuda.is_available():
        local, seen = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= seen:
            raise ConfigError(
                f"training.sharding.ranks asks for a GPU each, but only {seen} can be seen here; "
                "lower it, or start the run where there are as many."
            )
        torch.cuda.set_device(local)
    # Tensors on the host go over gloo also where those on the device go over NCCL.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    try:
        yield Several()
    finally:
        dist.destroy_process_group()
