"""SHA-256 of large files, remembered for as long as a file stays as it is.

Every job plans its suite anew, and a model of gigabytes must not be read each time. The memory is
a file of ours, never one in the user's folder. A file counts as unchanged while its size, its times
and its inode are the same; ``ctime`` too, which a copy that keeps ``mtime`` changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridge.store.records import RecordError, file_hash, read_json, write_json


def remembered_hashes(paths: Iterable[Path], memory: Path) -> dict[str, str]:
    """Name of each file -> its SHA-256; only files that changed since the last call are read.

    Args:
        paths: files of one folder.
        memory: JSON file with what is known of them. One that is damaged or cannot be written costs
            time and nothing else.
    """
    known = _known(memory)
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        old = known.get(path.name)
        if isinstance(old, dict) and old.get("mark") == mark and "sha256" in old:
            found[path.name] = old
        else:
            found[path.name] = {"mark": mark, "sha256": file_hash(path)}
    if found != known:
        with contextlib.suppress(RecordError, OSError):
            write_json(memory, found)
    return {name: str(entry["sha256"]) for name, entry in found.items()}


def _known(memory: Path) -> dict[str, Any]:
    try:
        known = read_json(memory)
    except (RecordError, OSError):
        return {}
    return known if isinstance(known, dict) else {}
