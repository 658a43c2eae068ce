r"""How our grader and math-verify alone treat the gold answers of the real sets.

    python benchmarks/grading_parity.py --data-root <folder> --write docs/grading.md

Per set, over its distinct gold answers: does each verify against itself; does an equal answer in
another form pass; does the gold of another question pass. math-verify alone gets the gold as the
origin wrote it, in dollar signs, and the whole text with the box, with its default
settings but for the time limit.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import gzip
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from bridge.grading import GRADER_VERSION, GradeItem, GraderPool
from bridge.tasks.real.repairs import repaired
from bridge.tasks.real.sources import manifest

LEFT_OUT = {"deepmath_103k", "gpqa_diamond", "kk_train", "kk_test"}
LEFT_OUT |= {"cola_train", "cola_validation"}
NEIGHBOURS = 400
# math-verify alone, per step: its default of 5 s is spent in full on many golds in e-notation.
LIMIT_S = 3
_DOLLAR = re.compile(r"(?<!\\)\$")
START, END = "<!-- parity: start -->", "<!-- parity: end -->"

Judge = Callable[[Sequence[tuple[str, str, str]]], list[bool]]
"""(gold of the origin, gold repaired, answer in the box) -> accepted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    parser.add_argument("--most", type=int, help="gold answers per set, a draw; all without this")
    parser.add_argument("--sets", nargs="*", help="names in the manifest; all without this")
    args = parser.parse_args()
    shared_pool()
    alone([("1", "1", "1")])
    names = args.sets or [name for name in manifest() if name not in LEFT_OUT]
    rows = []
    for name in names:
        found = golds(args.data_root / manifest()[name].file)
        drawn = found if args.most is None else drawn_from(found, args.most, name)
        part = f" ({len(drawn)} of {len(found):,})" if len(drawn) < len(found) else ""
        rows.append(row(name + part, drawn))
        print(rows[-1], file=sys.stderr, flush=True)
    table = "\n".join([*head(), *rows, "", f"Graders: {GRADER_VERSION}."])
    print(table)
    if args.write:
        page = args.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(START)
        after = rest.partition(END)[2]
        args.write.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


def head() -> list[str]:
    return [
        "| set | distinct golds | itself: alone | itself: ours | equal forms | alone | ours |"
        " other golds | alone | ours | seconds alone | seconds ours |",
        "|---|" + "---:|" * 11,
    ]


def golds(path: Path) -> list[str]:
    """Distinct non-empty gold answers of a set, as the origin wrote them."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return sorted({json.loads(line)["answer"] for line in text.split("\n") if line} - {""})


def drawn_from(found: Sequence[str], most: int, name: str) -> list[str]:
    """At most so many golds; the same ones each time."""
    return sorted(random.Random(name).sample(found, min(most, len(found))))


def row(name: str, origin: Sequence[str]) -> str:
    rng = random.Random(name)
    pairs = [(gold, repaired(gold)[0]) for gold in origin]
    itself = [(gold, clean, clean) for gold, clean in pairs]
    equal = [(gold, clean, form) for gold, clean in pairs for form in forms(clean)]
    others = []
    while len(pairs) > 1 and len(others) < min(NEIGHBOURS, len(pairs)):
        (gold, clean), (_, other) = rng.sample(pairs, 2)
        if value(clean) != value(other):
            others.append((gold, clean, other))
    cells = []
    seconds = []
    results = []
    for judge in (alone, ours):
        started_s = time.perf_counter()
        results.append([sum(judge(cases)) for cases in (itself, equal, others)])
        seconds.append(time.perf_counter() - started_s)
    for index, cases in enumerate((itself, equal, others)):
        cells += [f"{n:,}" for n in (len(cases), results[0][index], results[1][index])]
    return "| " + " | ".join([name, *cells, *(f"{s:.1f}" for s in seconds)]) + " |"


def forms(gold: str) -> Iterator[str]:
    """Equal answers in another notation, made from the gold by rules that cannot err."""
    exact = value(gold)
    if exact is not None:
        number = re.fullmatch(r"-?[0-9.]+", gold)
        yield rf"{gold} \text{{ units}}" if number else rf"\left({gold}\right)"
        yield f"{gold}."
        if exact.denominator > 1:
            yield rf"\dfrac{{{exact.numerator}}}{{{exact.denominator}}}"
            if is_decimal(exact):
                yield decimal(exact)
        elif abs(exact) >= 1000:
            yield f"{int(exact):,}"
    scientific = re.fullmatch(r"(-?[0-9.]+) \\times 10\^\{(-?[0-9]+)\}", gold)
    if scientific:
        yield rf"{scientific[1]} \cdot 10^{{{scientific[2]}}}"
        yield f"{scientific[1]}e{scientific[2]}"
        yield rf"{gold} \mathrm{{~m}}"
    parts = [part.strip() for part in gold.split(",")]
    if len(parts) > 1 and all(value(part) is not None for part in parts) and not glued(parts):
        yield ", ".join(reversed(parts))


def value(text: str) -> Fraction | None:
    """The number that a plain integer, decimal or LaTeX fraction is; None for all else."""
    text = text.strip()
    if match := re.fullmatch(r"(-?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}", text):
        return Fraction(int(match[2]), int(match[3])) * (-1 if match[1] else 1)
    return Fraction(text) if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", text) else None


def glued(parts: Sequence[str]) -> bool:
    """Whether a list reads as one number with a thousands comma, in either direction."""
    return any(re.fullmatch("[0-9]{3}", part) for part in parts)


def is_decimal(number: Fraction) -> bool:
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1 and number.denominator <= 10**5


def decimal(number: Fraction) -> str:
    return f"{float(number):.6f}".rstrip("0")


def alone(cases: Sequence[tuple[str, str, str]]) -> list[bool]:
    """math-verify as it comes."""
    from math_verify import parse, verify

    def accepts(gold: str, answer: str) -> bool:
        reference = parse(f"${_DOLLAR.sub('', gold)}$", parsing_timeout=LIMIT_S)
        candidate = parse(rf"so \boxed{{{answer}}}", parsing_timeout=LIMIT_S)
        return bool(verify(reference, candidate, timeout_seconds=LIMIT_S))

    return [accepts(gold, answer) for gold, _, answer in cases]


def ours(cases: Sequence[tuple[str, str, str]]) -> list[bool]:
    """The harness's grader with repaired golds."""
    items = [GradeItem(rf"so \boxed{{{answer}}}", clean) for _, clean, answer in cases]
    return [graded.verdict == "correct" for graded in shared_pool().grade(items)]


@functools.cache
def shared_pool() -> GraderPool:
    """One pool for all sets; its worker starts before anything is timed."""
    pool = GraderPool()
    atexit.register(pool.close)
    pool.grade([GradeItem(r"\boxed{0.5}", r"\frac{1}{2}")])
    return pool


if __name__ == "__main__":
    main()
