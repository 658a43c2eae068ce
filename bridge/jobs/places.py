"""Where the commands that show a suite read and write: what the options name, else what
``config.yaml`` does."""

from __future__ import annotations

import argparse
from pathlib import Path


def suite_name(args: argparse.Namespace) -> str:
    """The suite asked for, else the one in config.yaml."""
    from bridge.plan.config import config_path, load_user_config

    return str(args.suite or load_user_config(config_path()).suite)


def suite_title(args: argparse.Namespace) -> str:
    """Title in the suite's file; empty where only its results are here."""
    from bridge.plan.config import load_suite, suite_file

    path = suite_file(suite_name(args), Path())
    return load_suite(path).title if path.is_file() else ""


def shown_folder(args: argparse.Namespace) -> Path:
    """Where tables and report go.

    What is made from an unfinished grid stays out of the workflow's own folders: Snakemake would
    take it for the finished thing.
    """
    from bridge.store.records import suite_folder

    folder = suite_folder(args.results, suite_name(args))
    return folder / "partial" if args.partial else folder


def figures_folder(args: argparse.Namespace) -> Path:
    """Where figures go."""
    return shown_folder(args) / "figures" if args.partial else Path("figures") / suite_name(args)


def tidy_folder(args: argparse.Namespace) -> Path:
    """Where the tidy tables are read from."""
    return args.tidy or shown_folder(args) / "tidy"
