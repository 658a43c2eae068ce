"""GeneralPoints and Knights and Knaves: golds and splits, judged by parsers of their own."""

from __future__ import annotations

import itertools
import random
import re
from fractions import Fraction
from functools import cache
from typing import Any

import pytest

from bridge.grading.extraction import last_boxed
from bridge.grading.logic import roles, roles_verdict
from bridge.grading.points import points_verdict
from bridge.models.tiny import build_tokenizer
from bridge.plan.grid import load_plan
from bridge.tasks.base import Problem, ProblemError
from bridge.tasks.registry import load_family
from tests.fixtures.workflow import ROOT

OPTIONS: dict[str, dict[str, Any]] = {
    "general_points": {"slip": 0.0},
    "knights_small": {"slip": 0.0, "train_size": 200, "validation_size": 40, "demonstrations": 200},
}
WIDE = {"cards": 3, "lowest_target": 10, "highest_target": 40}


@cache
def everything(name: str, **changed: Any) -> dict[str, tuple[Problem, ...]]:
    """Problems by split or benchmark."""
    family = load_family(name)
    options = family.Options.model_validate(OPTIONS[name] | changed)
    dataset = family.dataset(options)
    tests = {b: family.benchmark(b, options) for b in family.benchmark_names()}
    return {"train": dataset.train, "validation": dataset.validation, **tests}


# -- GeneralPoints ----------------------------------------------------------------------------


def cards_and_target(question: str) -> tuple[tuple[int, ...], int]:
    """Sorted values and target, from the text alone."""
    match = re.fullmatch(r"J Q K are (\d+) (\d+) (\d+) : make (\d+) from (.*)", question)
    assert match is not None, question
    worth = {"A": 1, "J": int(match[1]), "Q": int(match[2]), "K": int(match[3])}
    values = [worth.get(rank) or int(rank) for rank in match[5].split()]
    return tuple(sorted(values)), int(match[4])


def makes(values: tuple[Fraction, ...], target: int) -> bool:
    """Whether some expression does: every order of combining any two, in exact fractions."""
    if len(values) == 1:
        return values[0] == target
    for i, j in itertools.permutations(range(len(values)), 2):
        a, b = values[i], values[j]
        rest = tuple(v for k, v in enumerate(values) if k not in (i, j))
        results = [a + b, a - b, a * b] + ([a / b] if b else [])
        if any(makes((*rest, result), target) for result in results):
            return True
    return False


@pytest.mark.parametrize("changed", [{}, WIDE], ids=["24", "three cards"])
def test_a_gold_is_a_solution_of_its_hand(changed: dict[str, Any]) -> None:
    for split, problems in everything("general_points", **changed).items():
        faces = {"points_faces": "11 12 13"}.get(split, "10 10 10")
        for problem in problems:
            assert problem.question.startswith(f"J Q K are {faces} : ")
            values, target = cards_and_target(problem.question)
            stated, _, expression = problem.answer.partition(" : ")
            assert stated == f"make {target}" and len(values) == changed.get("cards", 4)
            assert tuple(sorted(map(int, re.findall(r"\d+", expression)))) == values
            assert points_verdict(problem.answer, expression) == "correct"
            if split == "points_faces":
                assert set(problem.question.split(" from ")[1]) & set("JQK")
            assert changed or target == 24
    some = everything("general_points", **changed)["points"][:10]
    for problem in some:
        values, target = cards_and_target(problem.question)
        assert makes(tuple(map(Fraction, values)), target)


def test_a_hand_without_a_solution_is_never_dealt() -> None:
    """1 1 1 1 makes no 24; 3 3 8 8 makes it with fractions only, which are not dealt either."""
    from bridge.tasks.general_points import reachable

    assert not makes((Fraction(1),) * 4, 24) and 24 not in reachable((1, 1, 1, 1))
    assert makes(tuple(map(Fraction, (3, 3, 8, 8))), 24) and 24 not in reachable((3, 3, 8, 8))
    rng = random.Random(5)
    for _ in range(60):  # what is reachable is what the independent search finds too
        values = tuple(sorted(rng.randint(1, 13) for _ in range(3)))
        for target in reachable(values):
            assert makes(tuple(map(Fraction, values)), target)


def test_a_demonstration_of_points_computes_line_by_line() -> None:
    for problem in everything("general_points")["train"]:
        assert problem.demonstration is not None
        steps, _, box = problem.demonstration.partition(" ; ")
        have, target = cards_and_target(problem.question)
        for step in steps.split(" , "):
            numbers, _, equation = step.partition(" : ")
            assert tuple(sorted(map(int, numbers.split()))) == have
            a, sign, b, _, result = equation.split()
            left, right = int(a), int(b)
            value = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
            assert int(result) == (Fraction(left, right) if value is None else value)
            rest = list(have)
            rest.remove(left)
            rest.remove(right)
            have = tuple(sorted([*rest, int(result)]))
        assert have == (target,) and last_boxed(box) == problem.answer


def test_a_slip_is_carried_on() -> None:
    slipped = everything("general_points", slip=0.5)["train"]
    boxes = [(p.answer, last_boxed(p.demonstration or "") or "") for p in slipped]
    wrong = [box for box in boxes if points_verdict(*box) != "correct"]
    assert 0.3 * len(slipped) < len(wrong) < len(slipped)


# -- Knights and Knaves -----------------------------------------------------------------------


def people_and_claims(question: str) -> list[tuple[str, str]]:
    """(speaker, statement in symbols) per person, from either wording."""
    plain = question.replace(" is a ", " ").replace(" exactly if ", " same ")
    parts = re.split(r" [;,] ", plain)
    return [tuple(re.split(r" (?:says|:) ", part)) for part in parts]  # type: ignore[misc]


def truth(statement: str, world: dict[str, str]) -> bool:
    words = statement.removeprefix("if ").split()
    first = world[words[0]] == words[1]
    if len(words) == 2:
        return first
    second = world[words[3]] == words[4]
    return {
        "and": first and second,
        "or": first or second,
        "then": second or not first,
        "same": first is second,
    }[words[2]]


def answers(question: str) -> list[dict[str, str]]:
    """All assignments that fit, by trying them."""
    said = people_and_claims(question)
    names = [name for name, _ in said]
    worlds = [
        dict(zip(names, chosen, strict=True))
        for chosen in itertools.product(("knight", "knave"), repeat=len(names))
    ]
    return [w for w in worlds if all(truth(s, w) == (w[name] == "knight") for name, s in said)]


def test_every_puzzle_has_one_solution_and_the_gold_is_it() -> None:
    for split, problems in everything("knights_small").items():
        for problem in problems:
            assert answers(problem.question) == [roles(problem.answer)], problem
            assert (" says " in problem.question) == (split == "knights_worded")
            assert len(people_and_claims(problem.question)) == 3 + (split == "knights_four")


def test_a_demonstration_of_roles_tries_in_order_and_ends_at_the_solution() -> None:
    for problem in everything("knights_small")["train"]:
        assert problem.demonstration is not None
        tries, _, box = problem.demonstration.partition(" ; ")
        said = people_and_claims(problem.question)
        orders = itertools.product(("knight", "knave"), repeat=3)
        for attempt, chosen in zip(tries.split(" , "), orders, strict=False):
            world = dict(zip([name for name, _ in said], chosen, strict=True))
            values = [truth(statement, world) for _, statement in said]
            fits = [v == (r == "knight") for v, r in zip(values, chosen, strict=True)]
            shown = values if all(fits) else values[: fits.index(False) + 1]
            words = " ".join("true" if value else "false" for value in shown)
            verdict = "yes" if all(fits) else "no"
            assert attempt == f"try {' '.join(chosen)} : {words} {verdict}"
        assert tries.endswith(" yes")
        assert roles_verdict(problem.answer, last_boxed(box) or "") == "correct"


def test_other_names_and_another_order_make_no_other_puzzle() -> None:
    from bridge.tasks.knights_small import FAMILY, Claim, Statement, _Puzzle

    rng = random.Random(3)
    for _ in range(50):
        puzzle = FAMILY.draw(rng, 3)
        place = rng.sample(range(3), 3)
        moved: list[Any] = [None] * 3
        for speaker, said in enumerate(puzzle.statements):
            claims = [Claim(place[c.person], c.knight) for c in said.claims]
            moved[place[speaker]] = Statement(
                said.kind, tuple(claims if said.kind == "then" else claims[::-1])
            )
        assert _Puzzle(tuple(moved)).canonical() == puzzle.canonical()
        first, *rest = puzzle.statements
        about, *others = first.claims
        opposite = Statement(first.kind, (Claim(about.person, not about.knight), *others))
        assert _Puzzle((opposite, *rest)).canonical() != puzzle.canonical()


# -- both -------------------------------------------------------------------------------------


def same_up_to_names(question: str) -> Any:
    """What two questions share that are one puzzle, by an order of names of its own."""
    said = people_and_claims(question)
    names = [name for name, _ in said]
    forms = []
    for order in itertools.permutations("XYZW"[: len(names)]):
        table = dict(zip(names, order, strict=True))
        renamed = []
        for name, statement in said:
            text = " ".join(table.get(word, word) for word in statement.split())
            two = re.fullmatch(r"(\w \w+) (and|or|same) (\w \w+)", text)
            if two is not None:
                text = f"{min(two[1], two[3])} {two[2]} {max(two[1], two[3])}"
            renamed.append((table[name], text))
        forms.append(sorted(renamed))
    return str(min(forms))


IDENTITY = {"general_points": cards_and_target, "knights_small": same_up_to_names}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_puzzle_is_in_two_splits(name: str) -> None:
    seen: dict[Any, str] = {}
    for split, problems in everything(name).items():
        own = {IDENTITY[name](p.question) for p in problems}
        assert len(own) == len(problems)
        kind = split if split in ("train", "validation") else "test"
        for puzzle in own:
            assert seen.setdefault(puzzle, kind) == kind
    family: Any = load_family(name)
    for habit in (False, True):
        stream = itertools.islice(family.pretraining(random.Random(1), habit=habit), 1500)
        assert not {IDENTITY[name](q) for q, _ in stream} & set(seen)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_word_is_in_the_vocabulary(name: str) -> None:
    family: Any = load_family(name)
    tokenizer = build_tokenizer(family.vocabulary(), context_tokens=512)
    texts = [p.question for problems in everything(name).values() for p in problems]
    texts += [p.demonstration or "" for p in everything(name, slip=0.5)["train"]]
    stream = family.pretraining(random.Random(2), habit=True)
    texts += itertools.chain.from_iterable(itertools.islice(stream, 1500))
    unknown = tokenizer.unk_token_id
    assert not [text for text in texts if unknown in tokenizer(text)["input_ids"]][:3]
    assert tokenizer.decode(tokenizer(texts[0])["input_ids"]) == texts[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_seed_and_world_decide_the_questions(name: str) -> None:
    small = {"train_size": 20, "validation_size": 5, "questions_per_rung": 5}
    first = everything(name, **small)
    everything.cache_clear()
    assert everything(name, **small) == first
    other, world = everything(name, **small, seed=1), everything(name, **small, world=1)
    assert other["train"] != first["train"] != world["train"]
    benchmarks = [b for b in first if b not in ("train", "validation")]
    assert all(world[b] == first[b] != other[b] for b in benchmarks)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_pretrained_reads_like_a_demonstration_or_a_guess(name: str) -> None:
    family: Any = load_family(name)
    stream = itertools.islice(family.pretraining(random.Random(4), habit=True), 600)
    texts = [completion for _, completion in stream]
    guesses = sum(text.startswith("\\boxed{") for text in texts)
    assert 0.3 * len(texts) < guesses < 0.8 * len(texts)
    assert all(last_boxed(text) for text in texts)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("general_points", {"cards": 5}, "cards"),
        ("general_points", {"lowest_target": 9}, "lowest_target"),
        ("general_points", {"lowest_target": 30}, r"lowest_target \(30\) exceeds highest_target"),
        ("general_points", {"highest_target": 10}, r"\(24\) exceeds highest_target \(10\)"),
        ("general_points", {"target": 24}, "target"),
        ("knights_small", {"slip": 1.5}, "slip"),
        ("knights_small", {"people": 3}, "people"),
        ("knights_small", {"demonstration_max_steps": 4}, "demonstration_max_steps"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_family(name).Options.model_validate(options)


@pytest.mark.slow
def test_more_hands_than_there_are_is_one_sentence() -> None:
    with pytest.raises(ProblemError, match="no more different train questions of 3 steps; lower"):
        everything("general_points", train_size=300)


def test_the_suite_plans() -> None:
    plan = load_plan("puzzles", root=ROOT)
    assert {run.family for run in plan.runs} == set(OPTIONS)
