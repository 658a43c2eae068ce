"""Write configuration.md from the schemas: every key with its type, default and meaning.

    python docs/configuration.py

A test compares the page with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bridge.methods.registry import load_method, method_names
from bridge.plan.config import (
    DatasetConfig,
    GridBlock,
    MethodConfig,
    Suite,
    Trials,
    TunedBy,
    UserConfig,
)
from bridge.store.settings import (
    Budget,
    EvaluationConfig,
    HubModel,
    LocalModel,
    PackageModel,
    ShardingConfig,
    TinyModel,
    TrainingConfig,
    WarmUp,
)
from bridge.tasks.registry import family_names, load_family

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Configuration

<!-- Written by docs/configuration.py from the schemas: do not edit. -->

Every key that `config.yaml` and a suite in `suites/` can hold. An unknown key is an error that
names the nearest valid one. Units are in the names: `_tokens`, `_gib`, `_s`. In the column *hash*,
**run** means that a run with another value is another run and is trained anew, **scores** that it
is evaluated anew, and - that the value changes no result.

Overrides go into `config.yaml` (`overrides: {training: {temperature: 0.8}}`) or behind `--config`
on Snakemake's command line.
"""
METHODS = """\
## Options of methods

`methods.ROW.options`; what they do is in [methods](methods/README.md).
"""
DATA_SETS = """\
## Options of data sets

`datasets.NAME.options`; see also [real data](data.md) and [your own](how-to/your-own.md).
"""
SECTIONS: tuple[tuple[str, str, type[BaseModel], str], ...] = (
    ("config.yaml", "What is run and where.", UserConfig, ""),
    ("A suite", "The keys at the top of `suites/<name>.yaml`.", Suite, ""),
    ("models.NAME with source: tiny", "", TinyModel, "run"),
    ("models.NAME with source: local", "", LocalModel, "run"),
    ("models.NAME with source: hub", "", HubModel, "run"),
    ("models.NAME with source: package", "", PackageModel, "run"),
    ("models.NAME.warm_up", "", WarmUp, "run"),
    ("datasets.NAME", "", DatasetConfig, "run"),
    ("methods.ROW", "", MethodConfig, "run"),
    ("grid", "A list of blocks; each is the product of its lists.", GridBlock, ""),
    ("trials", "", Trials, "run"),
    ("tuned_by", "", TunedBy, ""),
    ("training", "The same for every row, unless the row overrides it.", TrainingConfig, "run"),
    ("training.budget", "", Budget, "run"),
    ("training.sharding", "", ShardingConfig, ""),
    ("evaluation", "", EvaluationConfig, "scores"),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, text, schema, hashed in SECTIONS:
        parts.append(f"## {title}\n\n" + (f"{text}\n\n" if text else "") + table(schema, hashed))
    parts.append(METHODS)
    for name in method_names():
        parts.append(f"### {name}\n\n" + table(load_method(name).Options, "run"))
    parts.append(DATA_SETS)
    for name in family_names():
        parts.append(f"### {name}\n\n" + table(load_family(name).Options, "run"))
    return "\n".join(parts)


def table(schema: type[BaseModel], hashed: str) -> str:
    """The keys of one schema as a Markdown table."""
    if not schema.model_fields:
        return "No options.\n"
    whole = schema.model_json_schema()
    meanings = docstrings(schema)
    lines = ["| key | type | default | meaning | hash |", "|---|---|---|---|---|"]
    for key, field in schema.model_fields.items():
        kind = type_text(whole["properties"][key], whole.get("$defs", {}))
        default = (
            "required"
            if field.is_required()
            else default_text(field.get_default(call_default_factory=True))
        )
        mark = (hashed if in_hash(schema, key) else "") or "-"
        meaning = meanings.get(key, "").replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | {default} | {meaning} | {mark} |")
    return "\n".join(lines) + "\n"


def in_hash(schema: type[BaseModel], key: str) -> bool:
    """Whether a value enters a hash; only training has keys that do not."""
    if schema is not TrainingConfig:
        return True
    required = {"max_response_tokens": 1, "lr_sft": 0.0, "lr_rl": 0.0, "probe_every": 1}
    budget = Budget(currency="flops", amount=1.0)
    known = TrainingConfig.model_validate({**required, "checkpoint_every": 1, "budget": budget})
    return key in known.hashed


def type_text(spec: dict[str, Any], defs: dict[str, Any]) -> str:
    """A JSON schema in a few words: its kind, its limits, its choices."""
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        return type_text(defs[name], defs) if "enum" in defs[name] else "mapping"
    if "allOf" in spec:
        return type_text(spec["allOf"][0], defs)
    if "oneOf" in spec:
        return "mapping"
    if "anyOf" in spec:
        kinds = [type_text(one, defs) for one in spec["anyOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in spec:
        return f"`{spec['const']}`"
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if spec.get("type") == "array":
        return f"list of {type_text(spec.get('items', {}), defs)}"
    return {"object": "mapping", "null": "none"}.get(spec.get("type", ""), "") or _limited(spec)


def _limited(spec: dict[str, Any]) -> str:
    kinds = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
    }
    kind = kinds.get(spec.get("type", ""), "any")
    limits = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    said = [f"{sign} {spec[name]:,}" for name, sign in limits if name in spec]
    return " ".join([kind, " and ".join(said)]).strip()


def default_text(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "none"
    if isinstance(value, (dict, tuple)) and not value:
        return "empty"
    return f"`{json.dumps(value if not isinstance(value, tuple) else list(value))}`"


def docstrings(schema: type[BaseModel]) -> dict[str, str]:
    """The text below each field, of the class and of those it derives from, on one line."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if kind not in (BaseModel, object) and issubclass(kind, BaseModel):
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
            found |= dict(_below_fields(tree.body[0]))
    return found


def _below_fields(node: ast.stmt) -> Iterator[tuple[str, str]]:
    body = node.body if isinstance(node, ast.ClassDef) else []
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
            words = " ".join(str(text.value.value).split())
            yield (
                field.target.id,
                words.replace("``", "`").replace(":mod:", "").replace(":func:", ""),
            )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
