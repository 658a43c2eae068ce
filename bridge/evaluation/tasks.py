"""lm-eval tasks, made from the families: a greedy and a sampled one for each benchmark.

The benchmarks of a family that has several are a group, ``bridge_<family>``, with their unweighted
mean as in the main table. A tag, ``bridge_<family>_tasks``, names them without a mean.

The runner loads them from a folder that lives as long as the loading. For other people's models
``bridge tasks FOLDER`` writes them for lm-eval's own command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from bridge.tasks.base import Family
from bridge.tasks.registry import family_names, load_family

_CALLS = "bridge.evaluation.questions."


def task_name(benchmark: str, *, sampled: bool = False) -> str:
    """Name of a benchmark's task."""
    return f"bridge_{benchmark}" + ("_sampled" if sampled else "")


def write_tasks(folder: Path, families: Mapping[str, BaseModel | None] | None = None) -> int:
    """Write the task and group files of some families, all by default; return how many tasks.

    Args:
        families: name -> options, which name the benchmarks of some families.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, options in (families or dict.fromkeys(family_names())).items():
        family = load_family(name)
        benchmarks = family.benchmark_names(options)
        for sampled in (False, True):
            made = [_task(name, family, benchmark, sampled) for benchmark in benchmarks]
            count += len(made)
            files = {config["task"]: config for config in made}
            if len(benchmarks) > 1:
                group = _group(name, benchmarks, sampled)
                files[group["group"]] = group
            for file, config in files.items():
                (folder / f"{file}.yaml").write_text(_yaml(config), encoding="utf-8")
    return count


def _group(name: str, benchmarks: Sequence[str], sampled: bool) -> dict[str, Any]:
    """The keys of a group: its tasks and their unweighted mean."""
    return {
        "group": task_name(name, sampled=sampled),
        "task": [task_name(benchmark, sampled=sampled) for benchmark in benchmarks],
        "aggregate_metric_list": [
            {"metric": metric, "aggregation": "mean", "weight_by_size": False, "filter_list": "all"}
            for metric in _metrics(sampled)
        ],
        "metadata": {"version": 1},
    }


def _metrics(sampled: bool) -> tuple[str, ...]:
    return ("avg_at_n", "pass_at_n") if sampled else ("exact_match",)


def _task(name: str, family: Family, benchmark: str, sampled: bool) -> dict[str, Any]:
    """The keys of a task, with the family's own defaults of length and number of samples."""
    generation: dict[str, Any] = {
        # Empty on purpose: lm-eval adds the end-of-turn token itself, and would stop at a blank
        # line if the key were missing.
        "until": [],
        "do_sample": sampled,
        # A checkpoint's generation_config.json may ask for one, and Hugging Face would apply it to
        # greedy decoding too.
        "repetition_penalty": 1.0,
        "max_gen_toks": family.answer_tokens,
    }
    if sampled:
        # Hugging Face's default is top_k 50, and checkpoints bring their own top_p: both would
        # change pass@k.
        generation |= {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return {
        "task": task_name(benchmark, sampled=sampled),
        "tag": task_name(f"{name}_tasks", sampled=sampled),
        "dataset_kwargs": {"family": name, "benchmark": benchmark},
        "output_type": "generate_until",
        "custom_dataset": _Function("load_questions"),
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "num_fewshot": 0,
        **({"repeats": family.n_samples} if sampled else {}),
        "generation_kwargs": generation,
        "process_results": _Function("score_samples" if sampled else "score_greedy"),
        "filter_list": [
            {
                "name": "all",
                "filter": [{"function": "custom", "filter_fn": _Function("keep_all")}],
            }
        ],
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in _metrics(sampled)
        ],
        "metadata": {"version": 1},
    }


class _Function(str):
    """Name of a function in :mod:`bridge.evaluation.questions`, for lm-eval's own YAML tag."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Function, lambda dumper, name: dumper.represent_scalar("!function", f"{_CALLS}{name}")
)


def _yaml(task: dict[str, Any]) -> str:
    text = yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return f"# Made by `bridge tasks`; another run of it overwrites this.\n{text}"
