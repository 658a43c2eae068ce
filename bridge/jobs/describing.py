"""What stands in a published folder about itself: README, RO-Crate 1.1 and Zenodo's metadata.

Who made it and under which licence is what ``CITATION.cff`` says where the command is run.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from bridge.jobs.verifying import plain_files
from bridge.machine.provenance import git_state
from bridge.store.records import write_json, write_text
from bridge.store.schema import ConfigError

CITATION = "CITATION.cff"
CRATE = "ro-crate-metadata.json"
_CRATE_VERSION = "https://w3id.org/ro/crate/1.1"

_README = """---
license: {tag}
pretty_name: {quoted}
tags: [bridge-harness]
---

# {title}

Results of the suite `{suite}` of the BRIDGE harness, in a folder that can be checked:

    sha256sum -c SHA256SUMS
    bridge verify .

The second also makes `tables/` anew from `tidy/` and compares every byte. Neither shows who made
the folder.

Made with {code}. {runs}

Authors: {authors}. Licence: {licence}; a checkpoint in `policies/` has that of its base model, see
its card. Of benchmarks it holds ids of questions and models' answers, not the questions.
"""


def read_citation(path: Path) -> dict[str, Any]:
    """Authors' names (``authors``) and SPDX licence (``license``) of ``CITATION.cff``.

    Raises:
        ConfigError: the file is missing, is no YAML, or lacks one of them.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing here; it names the authors and the licence of what you publish "
            "(citation-file-format.github.io)."
        )
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        authors = [_author(author) for author in said["authors"]]
        licence = said["license"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        authors, licence = [], None
    if not (authors and all(authors) and isinstance(licence, str)):
        raise ConfigError(f"{path} needs authors (with names) and license (one SPDX id).")
    return {"authors": authors, "license": licence}


def _author(author: Mapping[str, Any]) -> str:
    """A name as Zenodo writes it: of a person the family name first."""
    parts = (author.get("family-names"), author.get("given-names"))
    return str(author.get("name") or ", ".join(str(part) for part in parts if part))


def describe(
    folder: Path, suite: str, title: str, citation: Mapping[str, Any], *, commits: Sequence[str]
) -> None:
    """Write ``README.md``, ``.zenodo.json`` and ``ro-crate-metadata.json``, the last one last.

    Args:
        title: of the suite; its name if this is empty.
        citation: see :func:`read_citation`.
        commits: of the code that made the runs.
    """
    title, release = title or suite, version("bridge-harness")
    state = git_state()
    dirty = " with changes that are in no commit" if state["dirty"] else ""
    code = f"bridge-harness {release} (commit {state['commit'] or 'unknown'}{dirty})"
    runs = f"The runs were made at {', '.join(commits)}." if commits else ""
    authors, licence = citation["authors"], citation["license"]
    text = _README.format(
        title=title,
        suite=suite,
        code=code,
        runs=runs,
        authors="; ".join(authors),
        licence=licence,
        tag=licence.lower(),  # as the hub writes it
        quoted=json.dumps(title),
    )
    write_text(folder / "README.md", text)
    about = f"Tables, figures, report and specifications of the suite {suite}, made with {code}."
    zenodo = {
        "title": title,
        "upload_type": "dataset",
        "description": about,
        "creators": [{"name": name} for name in authors],
        "license": licence,
        "access_right": "open",
        "keywords": ["bridge-harness", "LLM reasoning", "reproducibility"],
    }
    write_json(folder / ".zenodo.json", zenodo)
    software = {"softwareVersion": release, "version": state["commit"] or release}
    write_json(folder / CRATE, _crate(folder, title, about, citation, software))


def _crate(
    folder: Path, title: str, about: str, citation: Mapping[str, Any], software: Mapping[str, str]
) -> dict[str, Any]:
    """The RO-Crate of a folder: every file, its authors, its licence, and what made it."""
    files = [_file(folder, name) for name in plain_files(folder)]
    authors = [
        {"@id": f"#author{i}", "@type": "Person" if "," in name else "Organization", "name": name}
        for i, name in enumerate(citation["authors"], 1)
    ]
    licence = f"https://spdx.org/licenses/{quote(citation['license'])}"
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": about,
        "datePublished": datetime.now(UTC).date().isoformat(),
        "license": {"@id": licence},
        "author": _ids(authors),
        "hasPart": _ids(files),
    }
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _CRATE_VERSION},
        "about": {"@id": "./"},
    }
    harness = {"@id": "#harness", "@type": "SoftwareApplication", "name": "bridge-harness"}
    made = {
        "@id": "#publish",
        "@type": "CreateAction",
        "name": "Tables, figures and report from the tidy tables",
        "instrument": {"@id": "#harness"},
        "object": _ids(file for file in files if file["@id"].startswith("tidy/")),
        "result": {"@id": "./"},
    }
    terms = {"@id": licence, "@type": "CreativeWork", "name": citation["license"]}
    graph = [descriptor, root, terms, *authors, {**harness, **software}, made, *files]
    return {"@context": f"{_CRATE_VERSION}/context", "@graph": graph}


def _file(folder: Path, name: str) -> dict[str, Any]:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    size = str((folder / name).stat().st_size)
    return {"@id": quote(name), "@type": "File", "contentSize": size, "encodingFormat": kind}


def _ids(entities: Any) -> list[dict[str, str]]:
    return [{"@id": entity["@id"]} for entity in entities]
