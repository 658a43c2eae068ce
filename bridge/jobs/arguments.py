"""Values of a command line, checked where they are read: one sentence and exit code 2.

The schemas are imported when there is a value to check, so ``--help`` answers without them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence; subcommands get one of the same kind."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where all options are explained."""
        text = message if len(message) <= 400 else f"{message[:400]}..."
        print(f"bridge: {text}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


class Version(argparse.Action):
    """``--version``: of the installed package, looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and end."""
        from importlib.metadata import version

        print(f"{parser.prog} {version('bridge-harness')}")
        sys.exit(0)


def name(text: str) -> str:
    """A model, data set or row."""
    from bridge.store.schema import check_name

    return _said(check_name, text)


def suite(text: str) -> str:
    """A suite."""
    from bridge.store.schema import check_suite_name

    return _said(check_suite_name, text)


def repository(text: str) -> str:
    """A repository of the Hugging Face hub."""
    from bridge.store.schema import check_name

    owner, slash, own = text.partition("/")
    if not slash:
        raise argparse.ArgumentTypeError(f"expected OWNER/NAME (got {_shown(text)})")
    return f"{_said(check_name, owner)}/{_said(check_name, own)}"


def seed(text: str) -> int:
    """A seed of the grid."""
    from bridge.store.schema import LAST_SEED

    return _whole(text, 0, LAST_SEED)


def threads(text: str) -> int:
    """Threads or processes of one job."""
    from bridge.store.schema import MOST_THREADS

    return _whole(text, 1, MOST_THREADS)


def tokens(text: str) -> int:
    """Length of an answer."""
    return _whole(text, 1, 1_000_000)


def count(text: str) -> int:
    """Cards of one machine."""
    return _whole(text, 1, 64)


def rate(text: str) -> float:
    """Of events a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 24:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 24 (got {_shown(text)})")
    return value


def side(text: str) -> str:
    """One side of a comparison: a suite, a method, or a run by its folder's names."""
    parts = text.split("/")
    if len(parts) not in (1, 4):
        raise argparse.ArgumentTypeError(
            "expected a suite, a method or a run like tiny-qwen/chains/sft/seed0 "
            f"(got {_shown(text)})"
        )
    return "/".join(name(part) for part in parts)


def folder(text: str) -> Path:
    """A folder that may have to be made: no file may be in its way."""
    path = Path(text)
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{_shown(text)} names no folder")
    try:
        blocking = [p for p in (path, *path.parents) if p.exists() and not p.is_dir()]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{_shown(text)}: {error.strerror}") from None
    if blocking:
        raise argparse.ArgumentTypeError(f"{_shown(str(blocking[0]))} is a file, not a folder")
    return path


def json_mapping(text: str) -> dict[str, Any]:
    """A mapping in JSON."""
    from bridge.store.strict import strict_json

    try:
        value = strict_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('expected a JSON mapping like \'{"title": "Mine"}\'')
    return value


def _said(check: Callable[[str], str], text: str) -> str:
    from bridge.store.schema import ConfigError

    try:
        return check(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str, least: int, most: int) -> int:
    # Not int(): it also takes underscores, spaces and the digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to {most} (got {_shown(text)})"
        )
    return int(text)


def _shown(text: str) -> str:
    from bridge.store.schema import shown

    return shown(text)
