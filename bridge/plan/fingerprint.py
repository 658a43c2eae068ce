"""Code fingerprints: which source files a job's result depends on, as one hash.

Snakemake does not see edits in a package behind a ``shell:`` rule, so each rule carries in its
``params`` the fingerprint of its entry module and of everything that module imports from this
package, transitively. The graph is read from the source with ``ast``: nothing is imported, so it
works without torch. Imports inside functions count; imports under ``if TYPE_CHECKING`` do not, for
they never run. Method and family files are loaded by name and would be invisible, so a run names
its own ones as further entries (of the user's, what they import of this package); the files of
other methods stay out.

Sources are read once per process: a workflow that is under way keeps the fingerprints it began
with, and an edit made meanwhile shows as a change the next time.

What is hashed is the source as ``ast`` prints it, without docstrings: an edit of comments,
docstrings or layout reruns nothing. Left out: other packages (their versions are in the records)
and :mod:`bridge.jobs.cli`, which parses arguments and calls an entry.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.store.plugins import FAMILIES, METHODS, Room
from bridge.store.records import ROOT, content_hash, file_hash, shipped
from bridge.store.settings import MadeModel, TinyModel

if TYPE_CHECKING:
    from bridge.plan.grid import RunSpec

# Started as a program by its path, so no import statement leads to it.
GRADER = "bridge.grading.program"
_MANIFEST = "bridge/tasks/real/manifest.yaml"
_PUBLISHED = "results/published/*.csv"
_TUNED = "results/cached/tune/*.parquet"
_CLAIMS = "claims.yaml"
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
# A page, its style, its behaviour, and the charting library.
_TEMPLATES = tuple(
    f"bridge/analysis/report/{name}" for name in ("*.j2", "*.css", "*.js", "vendor/*")
)


def prepare_fingerprint(model: MadeModel, root: Path = ROOT) -> str:
    """Code behind a base model that the workflow makes."""
    if isinstance(model, TinyModel):
        families = (f"bridge.tasks.{name}" for name in model.families)
        return fingerprint(("bridge.models.preparing", *families), root=root)
    warm = model.warm_up
    if warm is None:
        return fingerprint(("bridge.models.converting",), root=root)
    entries = ("bridge.jobs.packaged", GRADER, "bridge.methods.sft", f"bridge.tasks.{warm.family}")
    return fingerprint(entries, _data_of(warm.family, root), root=root)


def train_fingerprint(spec: RunSpec, root: Path = ROOT) -> str:
    """Code behind a trained policy: the trainer, the run's method and its family."""
    entries = ("bridge.run.loop", GRADER, *_files(METHODS, spec.method, root))
    entries += _files(FAMILIES, spec.family, root)
    return fingerprint(entries, _data_of(spec.family, root), root=root)


def evaluate_fingerprint(spec: RunSpec, root: Path = ROOT) -> str:
    """Code behind a run's scores, given its policy."""
    entries = ("bridge.evaluation.runner", GRADER, *_files(FAMILIES, spec.family, root))
    return fingerprint(entries, _data_of(spec.family, root), root=root)


def _files(room: Room, name: str, root: Path) -> tuple[str, ...]:
    """The module of a method or family; of one of the user's, which is itself in the run's hash,
    what it imports of this package."""
    if (own := room.own_module(name)) is None:
        return (f"{room.package}.{name}",)
    named = (imported for module in own_modules(own).values() for imported in module.named)
    ours = {n for n in named if n.partition(".")[0] == "bridge" and _find(n, root) is not None}
    return tuple(sorted(ours))


def _data_of(family: str, root: Path) -> tuple[str, ...]:
    """The manifest, for a family of real data."""
    real = "bridge.tasks.real.sources" in closure(_files(FAMILIES, family, root), root=root)
    return (_MANIFEST,) if real else ()


def show_fingerprint(job: str, root: Path = ROOT) -> str:
    """Code behind ``collect``, ``tables``, ``figures`` or ``report``."""
    entries: dict[str, tuple[str, tuple[str, ...]]] = {
        "collect": ("bridge.collect.collecting", ()),
        "tables": ("bridge.analysis.report.building", (_PUBLISHED, _TUNED, _CLAIMS)),
        "figures": ("bridge.analysis.figures.drawing", ()),
        "report": ("bridge.analysis.report.page", (_PUBLISHED, *_TEMPLATES)),
    }
    entry, data = entries[job]
    return fingerprint((entry,), data, root=root)


@cache
def fingerprint(entries: tuple[str, ...], data: tuple[str, ...] = (), *, root: Path = ROOT) -> str:
    """Return the hash of the modules that ``entries`` need, and of the data files.

    Args:
        entries: dotted module names inside the package.
        data: glob patterns of files that are read but not imported, relative to ``root`` or to
            :func:`~bridge.store.records.shipped`.
        root: folder that holds the package.

    Raises:
        FileNotFoundError: an entry has no source file.
    """
    hashes = {name: module_source(name, root).hash for name in closure(entries, root=root)}
    for folder in {root, shipped(root)}:
        for pattern in data:
            for path in folder.glob(pattern):
                hashes[path.relative_to(folder).as_posix()] = file_hash(path)
    return content_hash(hashes)


@cache
def closure(entries: tuple[str, ...], *, root: Path = ROOT) -> frozenset[str]:
    """Return the names of all modules that the entries import, with themselves.

    Those of the entries' own packages and of this one; beside an installed one lie other libraries,
    whose versions are in the records.
    """
    ours = {"bridge", *(name.partition(".")[0] for name in entries)}
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        imports = module_source(name, root).imports
        waiting += (other for other in imports if other.partition(".")[0] in ours)
    return frozenset(found)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@cache
def _find(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _source(name: str, root: Path) -> Path:
    path = _find(name, root)
    if path is None:
        raise FileNotFoundError(f"module {name} has no source file below {root}")
    return path


@dataclass(frozen=True)
class Module:
    """What a source file says about its module."""

    named: tuple[str, ...]
    """All names that it imports, from wherever."""
    imports: tuple[str, ...]
    """Modules of the package that are run when it is imported."""
    hash: str
    """Of the code, without docstrings."""


@cache
def module_source(name: str, root: Path) -> Module:
    """A module below a folder.

    Raises:
        FileNotFoundError: it has no source there.
    """
    path = _source(name, root)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    named, code_hash = _read(path.read_text(encoding="utf-8"), package)
    run = (*_parents(name), *named)  # each package above it that has an __init__ runs that
    return Module(named, tuple(n for n in run if _find(n, root) is not None), code_hash)


def own_modules(name: str) -> dict[str, Module]:
    """A module of the user's that has been imported, and what it imports from where it lies.

    Of a module beside ``config.yaml`` everything below that folder counts, of an installed one its
    own package; nothing of this package does.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).resolve()
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    beside, found, waiting = root == Path.cwd(), dict[str, Module](), [name]
    while waiting:
        module = waiting.pop()
        top = module.partition(".")[0]
        if module in found or top == "bridge" or not (beside or top == name.partition(".")[0]):
            continue
        found[module] = module_source(module, root)
        waiting += found[module].imports
    return found


@cache
def _read(source: str, package: str) -> tuple[tuple[str, ...], str]:
    """Names that a module imports, and the hash of its code; another copy of it has the same."""
    tree = ast.parse(source)
    names = tuple(_imports(tree, package))
    _drop_docstrings(tree)
    return names, hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _imports(tree: ast.Module, package: str) -> dict[str, None]:
    """Names that a module imports; some may be attributes, and most are not in the checkout."""
    found: dict[str, None] = {}
    for node in _running(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            # ``from bridge.step.objectives import kl`` may name a module or something inside one.
            found |= dict.fromkeys([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All statements except what stands under ``if TYPE_CHECKING``."""
    yield node
    hidden = isinstance(node, ast.If) and _is_type_checking(node.test)
    for block in _blocks(node)[hidden:]:
        for child in block:
            yield from _running(child)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _drop_docstrings(node: ast.AST) -> None:
    """Drop strings that stand alone: docstrings of modules, classes, functions and fields."""
    for block in _blocks(node):
        block[:] = [child for child in block if not _is_text(child)]
        for child in block:
            _drop_docstrings(child)


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _blocks(node: ast.AST) -> list[list[ast.AST]]:
    """The lists of statements right inside a statement, what it guards first; expressions, which
    are most of a tree, are not looked into."""
    return [getattr(node, name) for name in _BLOCKS if hasattr(node, name)]
