"""The drawing of the house in CONTRIBUTING.md, held against the imports."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ("bridge/step", "bridge/run", "bridge/methods/base.py", "bridge/methods/bridge.py")
HEAVY = {"deepspeed", "vllm", "lm_eval", "pandas"}


def floors() -> list[str]:
    """Rooms from the lowest to the highest, as CONTRIBUTING.md draws them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = text.split("<!-- floors -->")[1]
    return re.findall(r"^ {4}(\w+)/ ", drawing, re.MULTILINE)


def modules() -> dict[str, Path]:
    """All modules of the package and of the studies by dotted name."""
    paths = [p for top in ("bridge", "studies") for p in (ROOT / top).rglob("*.py")]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


@functools.cache
def tree(path: Path) -> ast.Module:
    """The file, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path, *, at_import: bool = False) -> frozenset[str]:
    """Dotted names a file imports when it runs: not under TYPE_CHECKING; with ``at_import`` not
    inside functions either."""
    names: set[str] = set()

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.expr):
            return  # no import is inside an expression
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        yield node
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    for node in walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


MODULES = modules()
GRAPH = {n: {i for i in imports(p) if i in MODULES and i != n} for n, p in MODULES.items()}


def reached(start: str, seen: set[str]) -> set[str]:
    """All modules that a module needs when it is imported, packages above included."""
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = [i for i in imports(MODULES[name], at_import=True) if i in MODULES]
        waiting += [*found, *([name.rpartition(".")[0]] if name.count(".") > 1 else [])]
    return seen


def test_every_room_has_its_floor() -> None:
    rooms = {p.name for p in (ROOT / "bridge").iterdir() if (p / "__init__.py").is_file()}
    assert rooms == set(floors())
    loose = {p.name for p in (ROOT / "bridge").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_nothing_is_imported_from_above() -> None:
    height = {room: i for i, room in enumerate(floors())} | {"__main__": 99}

    def upward(name: str, target: str) -> bool:
        here, there = (n.split(".")[:2][-1] for n in (name, target))
        return target.startswith("studies") or height.get(there, -1) > height.get(here, 99)

    found = [
        f"{name} -> {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if name.startswith("bridge.") and upward(name, target)
    ]
    assert found == []


def test_analysis_has_floors_of_its_own() -> None:
    order = ["numbers", "tables", "figures", "claims", "report"]
    for name, targets in GRAPH.items():
        if name.startswith("bridge.analysis."):
            here = order.index(name.split(".")[2])
            above = [
                t
                for t in targets
                if t.startswith("bridge.analysis.") and order.index(t.split(".")[2]) > here
            ]
            assert above == [], name


def test_there_is_no_circle() -> None:
    left = {name: set(targets) for name, targets in GRAPH.items()}
    while free := [name for name, targets in left.items() if not targets]:
        for name in free:
            del left[name]
        for targets in left.values():
            targets.difference_update(free)
    # Whoever still waits is part of a circle, or stands above one.
    circle = [n for n, t in left.items() if any(n in left[m] for m in left)] if left else []
    assert circle == []


@pytest.mark.parametrize(
    ("part", "unwanted"),
    [
        ("bridge/step/objectives", {"bridge.models", "bridge.tasks", "transformers", "pydantic"}),
        ("bridge/grading", {"torch", "transformers", "pandas"}),
        ("bridge/analysis", {"torch", "transformers", "peft", "safetensors"}),
        ("bridge/plan", {"torch", "transformers", "pandas"}),
        *((part, HEAVY) for part in CORE),
    ],
)
def test_what_a_part_never_loads(part: str, unwanted: set[str]) -> None:
    """Not by itself and not through what it imports, when it is imported."""
    for name, path in MODULES.items():
        if not str(path.relative_to(ROOT)).startswith(part):
            continue
        needed = reached(name, set())
        found = {i for module in needed for i in imports(MODULES[module], at_import=True)}
        bad = {i for i in found if i in unwanted or i.split(".")[0] in unwanted}
        assert bad == set(), name


def test_the_core_can_be_read_in_an_afternoon() -> None:
    files = [
        p
        for part in CORE
        for p in ([ROOT / part] if part.endswith(".py") else (ROOT / part).rglob("*.py"))
    ]
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files)
    assert lines <= 4200
    longest = max(len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES.values())
    assert longest <= 500
