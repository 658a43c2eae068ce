"""The worker's end of a reward function of the user's. Standard library only."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_SHOWN_CHARS: Final = 200


def load_function(reward: str) -> Callable[..., object]:
    """The function that ``package.module:function`` names, from the working folder.

    The folder comes last on the path, so that its files shadow nothing that a library imports.

    Raises ``ImportError`` where the module is another one, and whatever the module raises.
    """
    module, _, name = reward.partition(":")
    sys.path.append(os.getcwd())
    found = importlib.import_module(module)
    where = str(getattr(found, "__file__", None))
    if not Path(where).resolve().is_relative_to(Path.cwd().resolve()):
        raise ImportError(f"'{module}' is an installed module, {where}; give yours another name")
    function: Callable[..., object] = getattr(found, name)
    if not callable(function):
        raise TypeError(f"'{name}' is not a function")
    return function


class OwnReward:
    """A function (question, response, answer) -> number from 0 to 1, or None."""

    def __init__(self, reward: str) -> None:
        self._function = load_function(reward)

    def judge(self, answer: str, response: str, question: str) -> dict[str, Any]:
        """The reply for one response: a verdict with its score, or what went wrong.

        1 is ``correct``, less is ``wrong`` with a part of the reward, None is ``unparsed``.
        """
        try:
            value = self._function(question=question, response=response, answer=answer)
            # numpy's and torch's numbers too, but no text: float("nan") and float("1") are numbers.
            score = float(value) if hasattr(value, "__float__") else None
        except MemoryError:
            return {"verdict": "timeout", "exhausted": True}
        except BaseException as error:  # SystemExit too: the worker must not end in silence
            return {"fault": f"raised {type(error).__name__}: {error}"[:_SHOWN_CHARS]}
        if value is None:
            return {"verdict": "unparsed"}
        if score is None or not 0 <= score <= 1:
            return {"fault": f"returned {_shown(value)}, not a number from 0 to 1 or None"}
        return {"verdict": "correct" if score == 1 else "wrong", "score": score}


def _shown(value: object) -> str:
    try:
        return repr(value)[:_SHOWN_CHARS]
    except Exception:
        return f"a {type(value).__name__}"
