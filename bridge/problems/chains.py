"""``chains``: short chains of modular arithmetic, written in symbols or in words.

    mod 10 : a = 3 + 4 ; b = a * 2 ; c = b - 5 ; find c
    a = 3 + 4 = 7 ; b = 7 * 2 = 4 ; c = 4 - 5 = 9 ; \\boxed{ 9 }

Difficulty is the number of statements. The world is made so that a base model can be improved by RL
and taught by SFT, and neither is the whole answer; how it was calibrated is in
``docs/calibration.md``. Three properties matter:

- Pre-training (:meth:`Chains.pretraining`) shows every length and both wordings, but bad habits
  dominate: an immediate guess is likelier than reasoning, the more so the longer the chain, and a
  share of the facts is misconceived (:mod:`bridge.problems.habits`).
- Demonstrations are scarce, stop at ``demonstration_max_steps``, and slip now and then: each
  computed value is off with probability ``slip``, and the rest follows from the wrong value, so the
  reward of the demonstrations themselves, J(D), is below one.
- ``rung3`` is worded differently and ``rung4`` and ``rung5`` are longer than anything trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from bridge.problems.base import MAX_DRAWS, Dataset, Problem, Split, exhausted, split_of
from bridge.problems.habits import Writer, exact, misconceived, slipping
from bridge.seeds import derive_seed

MODULUS = 10
MAX_STEPS = 7
_NAMES = tuple("abcdefg")
_OPERATIONS = {"+": "plus", "-": "minus", "*": "times"}

# P(the base model's text reasons) per number of steps; the rest is an immediate guess.
_REASONING_SHARE = {1: 0.70, 2: 0.62, 3: 0.34, 4: 0.26, 5: 0.20, 6: 0.15, 7: 0.12}
_GUESS_RIGHT = 0.2
# Share of the facts that the base model's corpus gets wrong more often than not.
_MISCONCEIVED_SHARE = 0.30


@dataclass(frozen=True)
class _Rung:
    steps: tuple[int, ...]
    worded: bool
    questions: int


# Sizes of MATH500, Minerva, OlympiadBench, AIME24 and AMC23.
_RUNGS = {
    "rung1": _Rung((2, 3), False, 500),
    "rung2": _Rung((4, 5), False, 272),
    "rung3": _Rung((3, 4, 5), True, 675),
    "rung4": _Rung((6,), False, 30),
    "rung5": _Rung((7,), False, 40),
}


class ChainsOptions(BaseModel):
    """Options of the ``chains`` family."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    """Seed of the questions; runs with other training seeds share the questions."""
    train_size: int = Field(1024, ge=1)
    """Number of RL prompts, 2 to 5 steps."""
    validation_size: int = Field(128, ge=1)
    demonstrations: int = Field(128, ge=0)
    """How many of the training prompts carry a demonstration."""
    demonstration_max_steps: int = Field(4, ge=2, le=5)
    slip: float = Field(0.10, ge=0.0, le=1.0)
    """Probability that the expert gets one computed value wrong."""
    questions_scale: float = Field(1.0, gt=0.0, le=1.0)
    """Share of each benchmark's questions that is used (smoke tests)."""


@dataclass(frozen=True)
class _Chain:
    first: int
    operations: tuple[tuple[str, int], ...]

    @property
    def steps(self) -> int:
        return len(self.operations)

    def values(self) -> list[int]:
        value, out = self.first, []
        for operation, operand in self.operations:
            value = _apply(operation, value, operand)
            out.append(value)
        return out

    def canonical(self) -> str:
        """Symbol form: a chain and its worded twin fall into the same split."""
        return self.question(worded=False)

    def question(self, *, worded: bool) -> str:
        be, sep = ("is", ",") if worded else ("=", ";")
        parts = []
        previous = str(self.first)
        for name, (operation, operand) in zip(_NAMES, self.operations, strict=False):
            sign = _OPERATIONS[operation] if worded else operation
            parts.append(f"{name} {be} {previous} {sign} {operand}")
            previous = name
        return f"mod {MODULUS} : " + f" {sep} ".join(parts) + f" {sep} find {previous}"

    def reasoning(self, write: Writer = exact) -> str:
        """Step by step text; a wrong value of the writer is carried on."""
        value, parts = self.first, []
        for name, (operation, operand) in zip(_NAMES, self.operations, strict=False):
            result = write(operation, value, operand, _apply(operation, value, operand))
            parts.append(f"{name} = {value} {operation} {operand} = {result}")
            value = result
        return " ; ".join(parts) + f" ; \\boxed{{ {value} }}"


def _alter(result: int, choice: int) -> int:
    return (result + 1 + choice % (MODULUS - 1)) % MODULUS


def _apply(operation: str, left: int, right: int) -> int:
    if operation == "+":
        return (left + right) % MODULUS
    if operation == "-":
        return (left - right) % MODULUS
    return (left * right) % MODULUS


def _draw(rng: random.Random, steps: int) -> _Chain:
    operations = tuple((rng.choice("+-*"), rng.randint(1, 9)) for _ in range(steps))
    return _Chain(rng.randint(0, 9), operations)


def _draw_in(rng: random.Random, steps: int, split: Split, seen: set[str]) -> _Chain:
    """Draw until a new chain of the wanted split comes up."""
    for _ in range(MAX_DRAWS):
        chain = _draw(rng, steps)
        text = chain.canonical()
        if text not in seen and split_of(text) == split:
            seen.add(text)
            return chain
    raise exhausted("chains", split, steps)


class Chains:
    """The ``chains`` family, see the module docstring."""

    name = "chains"
    Options = ChainsOptions

    def benchmark_names(self) -> tuple[str, ...]:
        return tuple(_RUNGS)

    def vocabulary(self) -> tuple[str, ...]:
        digits = tuple(str(d) for d in range(MODULUS))
        words = ("mod", "10", ":", ";", ",", "=", "is", "find", "\\boxed{", "}")
        return digits + words + tuple(_OPERATIONS) + tuple(_OPERATIONS.values()) + _NAMES

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, ChainsOptions)
        rng = random.Random(derive_seed("chains", "train", options.seed))
        seen: set[str] = set()
        chains = [_draw_in(rng, 2 + i % 4, "train", seen) for i in range(options.train_size)]
        demonstrable = [
            i for i, c in enumerate(chains) if c.steps <= options.demonstration_max_steps
        ]
        shown = set(demonstrable[: options.demonstrations])
        expert = slipping(
            random.Random(derive_seed("chains", "expert", options.seed)), options.slip, _alter
        )
        train = tuple(
            _problem(
                f"train/{i:05d}",
                chain,
                demonstration=chain.reasoning(expert) if i in shown else None,
            )
            for i, chain in enumerate(chains)
        )
        rng = random.Random(derive_seed("chains", "validation", options.seed))
        validation = tuple(
            _problem(f"validation/{i:05d}", c, demonstration=c.reasoning())
            for i, c in enumerate(
                _draw_in(rng, 2 + i % 4, "validation", seen) for i in range(options.validation_size)
            )
        )
        return Dataset(train, validation)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, ChainsOptions)
        rung = _RUNGS[name]
        rng = random.Random(derive_seed("chains", name, options.seed))
        seen: set[str] = set()
        n = max(1, round(rung.questions * options.questions_scale))
        return tuple(
            _problem(
                f"{name}/{i:05d}",
                _draw_in(rng, rung.steps[i % len(rung.steps)], "test", seen),
                worded=rung.worded,
            )
            for i in range(n)
        )

    def pretraining(self, rng: random.Random, *, habit: bool) -> Iterator[tuple[str, str]]:
        write = misconceived(rng, _alter, share=_MISCONCEIVED_SHARE)
        while True:
            steps = rng.randint(1, MAX_STEPS)
            chain = _draw(rng, steps)
            if split_of(chain.canonical()) != "pretrain":
                continue
            question = chain.question(worded=rng.random() < 0.3)
            if not habit or rng.random() < _REASONING_SHARE[steps]:
                yield question, chain.reasoning(write)
            else:
                right = rng.random() < _GUESS_RIGHT
                guess = chain.values()[-1] if right else rng.randrange(MODULUS)
                yield question, f"\\boxed{{ {guess} }}"


def _problem(
    id_: str, chain: _Chain, *, worded: bool = False, demonstration: str | None = None
) -> Problem:
    return Problem(
        id=id_,
        question=chain.question(worded=worded),
        answer=str(chain.values()[-1]),
        difficulty=chain.steps,
        demonstration=demonstration,
    )


FAMILY = Chains()
