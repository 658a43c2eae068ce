"""Evaluate one finished run.

Reads ``done.json`` and the checkpoint it names, writes ``answers.jsonl`` and, last,
``scores.json``.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.evaluation import EvaluationError, scores
from bridge.grading import GraderError, GraderLimits, GraderPool
from bridge.machine.determinism import make_deterministic
from bridge.machine.requeue import patience_s
from bridge.models.adapting import prepare_local_model
from bridge.plan.grid import RunSpec
from bridge.store.records import (
    RESULTS,
    RunFolder,
    Status,
    base_folder,
    exclusive,
    jsonl,
    write_json,
    write_text,
    writing,
)
from bridge.store.seeds import derive_seed
from bridge.store.settings import EvaluationConfig, LocalModel
from bridge.store.shapes import Done, Scores, read_record

log = logging.getLogger(__name__)

LoadPolicy = Callable[[Path, EvaluationConfig], Any]
"""(checkpoint folder, configuration) -> an lm-eval model with the extras of ``model.Policy``."""


def load_policy(folder: Path, evaluation: EvaluationConfig) -> Any:
    """Return the checkpoint as an lm-eval model, see :mod:`bridge.evaluation.model`."""
    if evaluation.engine == "vllm":
        from bridge.evaluation.engine_model import vllm_policy

        return vllm_policy(folder, kv_cache_gib=evaluation.kv_cache_gib)
    from bridge.evaluation.model import EvaluatedPolicy

    return EvaluatedPolicy(
        folder,
        batch_size=evaluation.batch_size,
        max_response_tokens=evaluation.max_response_tokens,
    )


def evaluate_run(
    spec: RunSpec, *, results: Path, threads: int, load: LoadPolicy = load_policy
) -> Status:
    """Measure the policy of a run and write its answers and scores, the scores last.

    A run that did not end with ``done`` keeps its status and gets no benchmarks. One whose answers
    cannot be read at all, not one of them, is ``collapsed``: a result, but not a score of 0.

    Args:
        threads: of PyTorch, and worker processes of the grader.
        load: how a checkpoint becomes an lm-eval model; replaced in tests.

    Raises:
        EvaluationError: no usable checkpoint, or too many answers that could not be graded.
        RecordError: files that cannot be read or written, or a folder in use.
    """
    folder = spec.folder(results)
    with exclusive(folder, wait_s=patience_s()) as waited:
        if waited and (other := _ended(spec, folder)) is not None:
            return other
        done = read_record(folder.done, Done)
        ended: Status = done["status"]
        if ended != "done":
            log.info("training ended with '%s' (%s): nothing to measure", ended, done.get("reason"))
            _forget(folder)
            write_json(
                folder.scores, scores.head(spec, ended, done.get("reason")) | {"benchmarks": {}}
            )
            return ended
        if done.get("train_hash") != spec.train_hash:
            raise EvaluationError(
                f"The policy in {folder.path} was trained with another configuration (train_hash "
                f"{done.get('train_hash')}, now {spec.train_hash}); train the run again."
            )
        if not done.get("policy"):
            raise EvaluationError(f"{folder.done} names no policy; train the run again.")
        return _measure(spec, results, done, threads, load)


def _ended(spec: RunSpec, folder: RunFolder) -> Status | None:
    """How another process has ended this very evaluation, or None if it has not."""
    if not folder.scores.is_file():
        return None
    record = read_record(folder.scores, Scores)
    status: Status = record["status"]
    return status if record.get("spec_hash") == spec.spec_hash and status in RESULTS else None


def _measure(
    spec: RunSpec, results: Path, done: dict[str, Any], threads: int, load: LoadPolicy
) -> Status:
    start_s = time.perf_counter()
    folder = spec.folder(results)
    checkpoint = _checkpoint(spec, results, done)
    # Before anything of Hugging Face is imported. Checkpoint and questions are local, always.
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    from bridge.evaluation.checkpoint import check_checkpoint

    check_checkpoint(checkpoint)

    import torch

    torch.set_num_threads(threads)
    if spec.training.full_determinism:
        make_deterministic(full=True, engines={spec.evaluation.engine})
    _hush()
    from bridge.evaluation import answers as stage

    evaluation = spec.evaluation
    lm = load(checkpoint, evaluation)
    greedy = stage.load_tasks(spec.family, spec.dataset_options, evaluation, sampled=False)
    sampled = (
        stage.load_tasks(spec.family, spec.dataset_options, evaluation, sampled=True)
        if evaluation.n_samples
        else None
    )
    seed = derive_seed("evaluate", spec.seed, spec.family)
    loaded_s = time.perf_counter()
    answers = list(stage.ask(lm, greedy, limit=None, seed=seed))
    greedy_s = time.perf_counter()
    if sampled:
        answers += stage.ask(lm, sampled, limit=evaluation.sampled_questions, seed=seed)
    sampled_s = time.perf_counter()
    try:
        with GraderPool(GraderLimits(workers=threads), spec.reward) as pool:
            rows = stage.grade(answers, pool, thinking=lm.prompt_opens_thinking)
    except GraderError as error:
        raise EvaluationError(f"The answers could not be graded: {error}") from error
    graded_s = time.perf_counter()

    benchmarks = {
        name: scores.summary([r for r in rows if r["benchmark"] == name]) for name in greedy.tasks
    }
    for name, found in benchmarks.items():
        log.info("%s: %d questions, %s", name, found["n"], scores.words(found["verdicts"]))
    _forget(folder)
    _complete_card(spec, folder, done, None)
    write_text(folder.answers, jsonl(rows))
    verdicts = Counter(r["verdict"] for r in rows)
    scores.check_graded(verdicts)
    status, reason = scores.outcome(verdicts)
    _complete_card(spec, folder, done, benchmarks if status == "done" else {})
    write_json(
        folder.scores,
        scores.head(spec, status, reason)
        | {
            "benchmarks": benchmarks if status == "done" else {},
            "seconds": {
                "load": loaded_s - start_s,
                "greedy": greedy_s - loaded_s,
                "sampled": sampled_s - greedy_s,
                "grade": graded_s - sampled_s,
                "total": graded_s - start_s,
            },
            **scores.cost(answers, lm.n_parameters),
            "versions": scores.versions(),
            "chat_template_hash": scores.text_hash(lm.tokenizer.chat_template),
            "decoding": {
                "greedy": scores.decoding(greedy),
                "sampled": scores.decoding(sampled) if sampled else None,
                "n_samples": evaluation.n_samples,
                "engine": evaluation.engine,
                "batch_size": evaluation.batch_size,
                "seed": seed,
                "threads": threads,
                "device": str(lm.device),
            },
            "tasks": greedy.describe() | (sampled.describe() if sampled else {}),
        },
    )
    return status


def _checkpoint(spec: RunSpec, results: Path, done: dict[str, Any]) -> Path:
    """The policy. A run that trained nothing measures its base, and a local one lies where the
    suite says now, wherever it lay when the record was written."""
    folder = spec.folder(results)
    if spec.checkpoint_hash is None or done["policy"] == folder.policy.name:
        return folder.path / done["policy"]
    assert isinstance(spec.model_config, LocalModel)
    return prepare_local_model(spec.model_config, base_folder(results, spec.suite, spec.model))


def _complete_card(
    spec: RunSpec, folder: RunFolder, done: dict[str, Any], benchmarks: dict[str, Any] | None
) -> None:
    """Write the scores into the policy's model card; a run that trains nothing has no policy."""
    from bridge.models.card import licence_of, write_card

    if folder.path / done["policy"] == folder.policy:
        licence = licence_of(spec.model_config.source, folder.policy)
        write_card(folder, spec.as_dict(), done, licence, benchmarks)


def _forget(folder: RunFolder) -> None:
    """Remove the files of an earlier evaluation: a new and an old one never lie together."""
    with writing(folder.scores):
        folder.scores.unlink(missing_ok=True)
        folder.answers.unlink(missing_ok=True)


def _hush() -> None:
    """Keep the libraries' notices and bars out of the log; their errors still come through."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # lm-eval warns about each custom dataset and each model that it did not load itself.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
