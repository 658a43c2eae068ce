"""Evaluation of a finished policy: questions and decoding by lm-eval, verdicts by our grader.

Importing this package loads neither torch nor lm-eval; :mod:`bridge.evaluation.runner` loads them
when a run is evaluated. The tasks also work from lm-eval's own command line::

    bridge tasks lm_eval_tasks
    lm_eval --model hf --model_args pretrained=<checkpoint> --apply_chat_template \\
        --include_path lm_eval_tasks --tasks bridge_rung1

with one exception: lm-eval loads tokenizers through transformers' ``AutoTokenizer``, which replaces
the word-level tokenizer of a tiny ``qwen2`` checkpoint by byte-level BPE without a word (see
:func:`bridge.models.checkpoint.load_tokenizer`). Tiny ``llama`` checkpoints and released Qwen
models are read as they are.
"""


class EvaluationError(RuntimeError):
    """A run that cannot be evaluated; one sentence that says what to do. Never a score."""
