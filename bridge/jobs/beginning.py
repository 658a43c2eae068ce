"""``bridge init``: a suite for a user's model and data, to be read and edited before it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bridge.grading.extraction import last_boxed
from bridge.models import CheckpointError
from bridge.models.folder import check_folder, settings
from bridge.plan.grid import load_plan
from bridge.store.records import file_hash, write_text
from bridge.store.schema import ConfigError
from bridge.tasks.base import ProblemError
from bridge.tasks.own_data.rows import read_problems
from bridge.tasks.own_data.sources import Columns, OwnSource, rows_of

_HUB = re.compile(r"([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)@([0-9a-f]{40})")
_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "question": ("question", "problem", "prompt", "query", "input"),
    "answer": ("answer", "final_answer", "gold", "target", "label", "solution", "output"),
    "demonstration": ("demonstration", "solution", "rationale", "cot", "response", "completion"),
    "messages": ("messages", "conversations"),
}
"""Our name of a column -> names it has elsewhere, the likeliest first."""
INSTRUCTION: Final = r"Put the final answer within \boxed{}."

_SUITE: Final = """\
# Made by `bridge init`. Edit it as you like; the plan: snakemake -n --config suite={name}
title: {name}

models:
  mine:
{model}

datasets:
  {name}:
    family: own
{reward}    options:
      instruction: {instruction}
      validation_size: {validation_size} # training problems held out
      train: {{{train}}}
      benchmarks:
{benchmarks}

training:
  prompts_per_step: 4
  n: 8 # answers per prompt
  max_response_tokens: {tokens}
  sft_batch_size: 8
  lr_sft: 2.0e-5
  lr_rl: 5.0e-6
  micro_batch_rows: 8 # memory; changes no result
  probe_every: 10
  probe_size: 16
  checkpoint_every: 10

evaluation:
  max_response_tokens: {tokens}
  n_samples: 0
  sampled_questions: 0

# Few steps and one seed: a first table, not a result (no interval over new training seeds).
methods:
  base: {{method: untrained}}
{methods}

grid:
  - models: [mine]
    datasets: [{name}]
    methods: [{rows}]
    seeds: [0]
"""


def begin_suite(
    path: Path,
    model: str,
    train: Path,
    tests: Sequence[Path],
    *,
    reward: str | None,
    tokens: int,
) -> str:
    """Write a suite and check it as every other command does; return what to do next.

    Args:
        path: the suite's file, which must not be there.
        model: a checkpoint folder, or ``owner/name@commit`` of the hub.
        train, tests: files of the ``own`` family.
        reward: ``package.module:function``.
        tokens: longest answer.

    Raises:
        ConfigError: a file is there that is not to be overwritten, or is not there, or cannot be
            used; one sentence.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already; choose another name or remove it.")
    try:
        source = _source(train)
        problems = read_problems(source, "")
        benchmarks = {_name(test): _source(test) for test in tests}
    except ProblemError as error:
        raise ConfigError(str(error)) from None
    if len(benchmarks) < len(tests):
        raise ConfigError("two test files have one name; benchmarks are named after their files.")
    demonstrations = [p.demonstration for p in problems if p.demonstration]
    shown = bool(demonstrations)
    if shown and reward is None and all(last_boxed(text) is None for text in demonstrations):
        source = source.model_copy(update={"append_box": True})
    methods = {"rl_zero": "steps: 20"}
    if shown:
        methods = {"sft": "steps: 20", **methods, "cold_start": "sft_steps: 20, rl_steps: 20"}
    text = _SUITE.format(
        name=path.stem,
        model=_model(model),
        reward="" if reward is None else f"    reward: {reward}\n",
        instruction=f"'{INSTRUCTION}'" if reward is None else "'' # follows every question",
        validation_size=min(64, max(1, len(problems) // 10)),
        train=_written(source),
        benchmarks="\n".join(
            f"        {name}: {{{_written(test)}}}" for name, test in benchmarks.items()
        ),
        tokens=tokens,
        methods="\n".join(f"  {row}: {{options: {{{steps}}}}}" for row, steps in methods.items()),
        rows=", ".join(["base", *methods]),
    )
    write_text(path, text)
    plan = load_plan(path.stem, root=path.parents[1])
    return (
        f"{path}: {len(plan.runs)} runs on {len(problems)} problems"
        f"{'' if shown else ' without demonstrations, so nothing with SFT'}.\n"
        f"Next: read it, then snakemake --cores all --config suite={path.stem}"
    )


def _model(model: str) -> str:
    """The settings of a model, indented."""
    if match := _HUB.fullmatch(model):
        return f"    source: hub\n    repo: {match[1]}\n    revision: {match[2]}"
    folder = Path(model)
    if not folder.is_dir():
        raise ConfigError(
            f"{model} is neither a folder nor a model of the hub like owner/name@<commit of 40 hex "
            "digits>; correct it."
        )
    try:
        check_folder(folder)
        known = settings(folder, "tokenizer_config.json")
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    end = known.get("eos_token") if known.get("pad_token") is None else None
    pad = "" if not isinstance(end, str) else f'\n    pad_token: "{end}"'
    return f'    source: local\n    path: "{model}"{pad}'


def _name(test: Path) -> str:
    """A benchmark's name, of characters that lm-eval's task names have."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", test.stem).lstrip("_-") or "test"


def _source(file: Path) -> OwnSource:
    """A pinned source whose columns are guessed by their names; the guess is written out."""
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; correct its path.")
    try:
        source = OwnSource(path=str(file), sha256=file_hash(file))
    except ValueError:
        raise ConfigError(f"{file}: a data file has to end in .jsonl or .csv.") from None
    rows = [raw for _, raw in rows_of(source)]
    there = dict.fromkeys(name for raw in rows for name in raw)
    if there.keys() <= {*Columns.model_fields}:
        return source
    found = {
        field: next(name for name in names if name in there)
        for field, names in _KNOWN.items()
        if any(name in there for name in names)
    }
    if not {"question", "messages"} & found.keys():
        raise ConfigError(
            f"{file}: no column looks like a question ({', '.join(there)[:200]}); name the columns "
            f"{' or '.join(_KNOWN['question'])}, or write the suite by hand with `columns`."
        )
    answers = [str(raw.get(found.get("answer", ""), "")) for raw in rows]
    after = "####" if all("####" in answer for answer in answers) else None
    return source.model_copy(update={"columns": Columns(**found), "answer_after": after})


def _written(source: OwnSource) -> str:
    """The keys of a source in YAML's flow style."""
    columns = {} if source.columns is None else source.columns.model_dump(exclude_none=True)
    mapping = ", ".join(f'{field}: "{column}"' for field, column in columns.items())
    return ", ".join(
        [f'path: "{source.path}"']
        + ([f"columns: {{{mapping}}}"] if mapping else [])
        + ([f"answer_after: '{source.answer_after}'"] if source.answer_after else [])
        + (["append_box: true"] if source.append_box else [])
        + [f"sha256: {source.sha256}"]
    )
