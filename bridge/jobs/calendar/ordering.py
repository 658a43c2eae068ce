"""In which order runs tell most: claims that cost least first.

The first stage is one comparison in the cheapest block; then the claim that needs the fewest
further device-hours, wherever it is, and so on. Runs that no claim needs come last. Within a stage
seeds come one after the other, so that a comparison can be looked at, and stopped, after each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.jobs.calendar.cells import Block, Cell
from bridge.store.schema import ConfigError

REST = "rows that no claim needs"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Stage:
    """Runs after which more can be said."""

    title: str
    """A comparison, a claim's id, or :data:`REST`."""
    block: Block | None
    """Where; None: in several."""
    cells: tuple[Cell, ...]
    """In the order they are run."""
    claims: tuple[str, ...]
    """Ids of all claims that can be judged in the block from here on."""

    @property
    def device_hours(self) -> float:
        """What the stage costs."""
        return sum(cell.device_hours for cell in self.cells)


def stages(
    cells: Sequence[Cell], claims: Mapping[str, Sequence[str]], first: tuple[str, str]
) -> list[Stage]:
    """All runs in stages.

    Args:
        claims: id of each claim with the rows it needs.
        first: two methods or rows that are compared first; of a method all rows count, so a tuned
            baseline is compared with all its settings.

    Raises:
        ConfigError: no block has both.
    """
    blocks = list(dict.fromkeys(cell.block for cell in cells))
    waiting = dict.fromkeys(cells)
    left = {(name, block): rows for name, rows in claims.items() for block in blocks}
    left = {key: rows for key, rows in left.items() if set(rows) <= _rows(cells, key[1])}
    found: list[Stage] = []

    def compared(cell: Cell) -> bool:
        return cell.row in first or cell.method in first

    def needed(rows: Sequence[str]) -> Callable[[Cell], bool]:
        return lambda cell: cell.row in rows

    def add(title: str, block: Block, wanted: Callable[[Cell], bool]) -> None:
        taken = [c for c in waiting if c.block == block and (wanted(c) or c.method == UNTRAINED)]
        for cell in taken:
            del waiting[cell]
        missing = {cell.row for cell in waiting if cell.block == block}
        ready = [name for (name, at), rows in left.items() if at == block and not missing & {*rows}]
        for name in ready:
            del left[name, block]
        found.append(Stage(title, block, _by_seed(taken), tuple(ready)))

    def cost(block: Block, wanted: Callable[[Cell], bool]) -> float:
        return sum(c.device_hours for c in waiting if c.block == block and wanted(c))

    cheapest = min(_with_both(cells, blocks, first), key=lambda block: cost(block, compared))
    add(" against ".join(first), cheapest, compared)
    while left:
        name, block = min(left, key=lambda key: cost(key[1], needed(left[key])))
        add(name, block, needed(left[name, block]))
    if waiting:
        cheap = sorted(waiting, key=lambda cell: (cell.seed, cell.device_hours))
        found.append(Stage(REST, None, tuple(cheap), ()))
    return found


def _rows(cells: Iterable[Cell], block: Block) -> set[str]:
    return {cell.row for cell in cells if cell.block == block}


def _with_both(
    cells: Sequence[Cell], blocks: Sequence[Block], first: tuple[str, str]
) -> list[Block]:
    there = {
        block: {x for c in cells if c.block == block for x in (c.row, c.method)} for block in blocks
    }
    both = [block for block in blocks if set(first) <= there[block]]
    if not both:
        raise ConfigError(f"no block of the suite has both {first[0]} and {first[1]}; set --first.")
    return both


def _by_seed(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(sorted(cells, key=lambda cell: cell.seed))
