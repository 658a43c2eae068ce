"""Evaluation of a finished policy: questions and decoding by lm-eval, verdicts by our grader.

Importing this package loads neither torch nor lm-eval; :mod:`bridge.evaluation.runner` loads them
when a run is evaluated. The tasks also work from lm-eval's own command line::

    bridge tasks lm_eval_tasks
    lm_eval --model hf --model_args pretrained=<checkpoint> --apply_chat_template \\
        --include_path lm_eval_tasks --tasks bridge_rung1
"""


class EvaluationError(RuntimeError):
    """A run that cannot be evaluated; one sentence that says what to do. Never a score."""
