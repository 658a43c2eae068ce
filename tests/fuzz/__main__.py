"""Fuzz with coverage as the guide, for some minutes; an input that breaks a reader is kept.

    make fuzz minutes=5

What is found stands in ``tests/fuzz/corpus`` afterwards, as a file that `make test` reads again.
Needs atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
import traceback

import atheris

READERS = [f"bridge.{n}" for n in ("records", "record_shapes", "config", "run_rows", "status")]
READERS += [f"bridge.grading.{name}" for name in ("extraction", "logic", "verdicts")]

with atheris.instrument_imports(include=READERS):
    from tests.fuzz.targets import CORPUS, one_input, remove_folder, target_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    args = parser.parse_args()
    found: dict[str, str] = {}
    count = 0
    grown = tempfile.mkdtemp(prefix="fuzz-corpus")
    end_s = time.monotonic() + args.minutes * 60

    def test_one(data: bytes) -> None:
        nonlocal count
        count += 1
        try:
            one_input(data)
        except Exception as error:
            # One input for each place in the code: the same defect is found again and again.
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{type(error).__name__} in {place.filename.rpartition('/')[2]}:{place.lineno}"
            if name not in found:
                target, content = target_of(data)
                found[name] = f"{target}-{hashlib.sha256(content).hexdigest()[:12]}"
                (CORPUS / found[name]).write_bytes(content)
                print(f"{name}: {error}"[:300], file=sys.stderr, flush=True)
        if time.monotonic() > end_s:
            print(
                f"{count:,} inputs in {args.minutes:g} minutes, {len(found)} defects.", flush=True
            )
            remove_folder()
            shutil.rmtree(grown)
            os._exit(1 if found else 0)  # libFuzzer takes an ordinary end for a crash

    options = [sys.argv[0], grown, "-max_len=600", "-verbosity=0", f"-artifact_prefix={grown}/"]
    options += [f"-seed={args.seed}"] if args.seed else []
    atheris.Setup(options, test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
