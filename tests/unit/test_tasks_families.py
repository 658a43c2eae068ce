"""The synthetic families, judged by parsers of their own."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from bridge.grading.extraction import last_boxed
from bridge.grading.verdicts import integer_verdict
from bridge.models.tiny import build_tokenizer
from bridge.tasks.base import (
    Problem,
    ProblemError,
    check_disjoint,
    check_problems,
)
from bridge.tasks.equations import _draw as draw_equation
from bridge.tasks.registry import family_names, load_family
from bridge.tasks.synthetic.habits import exact, slipping
from bridge.tasks.synthetic.splits import split_of

FAMILIES = ("chains", "equations")
SIZES = (500, 272, 675, 30, 40)
_WORDS = {"plus": "+", "minus": "-", "times": "*", ",": ";", "is": "="}


def symbols(question: str) -> list[str]:
    """Tokens of a question in the symbol form of its wording."""
    return [_WORDS.get(word, word) for word in question.split()]


def solve_chain(question: str) -> str:
    """Evaluate a chain from its text alone."""
    text = " ".join(symbols(question))
    match = re.fullmatch(r"mod (\d+) : (.*) ; find (\w)", text)
    assert match is not None, question
    values: dict[str, int] = {}
    for statement in match[2].split(" ; "):
        name, equals, left, operation, right = statement.split(" ")
        assert equals == "="
        a = values[left] if left in values else int(left)
        b = values[right] if right in values else int(right)
        values[name] = {"+": a + b, "-": a - b, "*": a * b}[operation] % int(match[1])
    return str(values[match[3]])


def side(tokens: list[str]) -> tuple[int, int]:
    """Coefficient of the unknown and constant of one side of an equation."""
    text = " ".join(t for t in tokens if t != "*")
    unknown = constant = 0
    for sign, number, letter in re.findall(r"([+-]?) ?(\d+)(?: ([a-z]))?", text):
        value = -int(number) if sign == "-" else int(number)
        if letter:
            unknown += value
        else:
            constant += value
    return unknown, constant


def solve_equation(question: str) -> str:
    """Solve a linear equation from its text alone."""
    tokens = symbols(question.removeprefix("solve : "))
    middle = tokens.index("=")
    (a, b), (c, d) = side(tokens[:middle]), side(tokens[middle + 1 :])
    solution = Fraction(d - b, a - c)
    assert solution.denominator == 1, question
    return str(solution.numerator)


SOLVE = {"chains": solve_chain, "equations": solve_equation}


def options_of(name: str, **chosen: Any) -> Any:
    return load_family(name).Options.model_validate(chosen)


def dataset_of(name: str, **chosen: Any) -> Any:
    return load_family(name).dataset(options_of(name, **chosen))


def benchmarks_of(name: str, **chosen: Any) -> dict[str, tuple[Problem, ...]]:
    family, options = load_family(name), options_of(name, **chosen)
    return {b: family.benchmark(b, options) for b in family.benchmark_names()}


def canonical(name: str, question: str) -> str:
    """What a question asks, whatever its wording, letters and order of terms."""
    if name == "chains":
        return " ".join(symbols(question))
    text = " ".join(t for t in symbols(question.removeprefix("solve : ")) if t != "*")
    sides = []
    for half in text.split(" = "):
        terms = re.findall(r"([+-]?) ?(\d+)(?: ([a-z]))?", half)
        sides.append(sorted(f"{sign or '+'}{number}{'u' * bool(u)}" for sign, number, u in terms))
    return str(sides)


def test_both_families_are_registered() -> None:
    assert set(FAMILIES) <= set(family_names())


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_answers_are_right(name: str) -> None:
    dataset = dataset_of(name)
    everything = [*dataset.train, *dataset.validation]
    everything += itertools.chain.from_iterable(benchmarks_of(name).values())
    wrong = [p.question for p in everything if SOLVE[name](p.question) != p.answer]
    assert not wrong and len(everything) > 2500


@pytest.mark.parametrize("name", FAMILIES)
def test_the_benchmarks_have_the_sizes_of_the_papers_five(name: str) -> None:
    assert tuple(len(b) for b in benchmarks_of(name).values()) == SIZES
    small = benchmarks_of(name, questions_scale=0.1)
    assert tuple(len(b) for b in small.values()) == (50, 27, 68, 3, 4)
    full = benchmarks_of(name)
    assert all(full[b][: len(small[b])] == small[b] for b in full)


@pytest.mark.parametrize("name", FAMILIES)
def test_difficulty_rises_from_rung_to_rung(name: str) -> None:
    means = {
        b: sum(p.difficulty for p in questions) / len(questions)
        for b, questions in benchmarks_of(name).items()
    }
    first, second, worded, fourth, fifth = means.values()
    assert first < second < fourth < fifth and first < worded < fourth
    hardest_trained = max(p.difficulty for p in dataset_of(name).train)
    assert fourth > hardest_trained and fifth > hardest_trained


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_third_rung_is_worded(name: str) -> None:
    for i, questions in enumerate(benchmarks_of(name).values()):
        worded = {bool(re.search(r"\b(plus|minus|times|is)\b", p.question)) for p in questions}
        assert worded == {i == 2}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_question_is_in_two_splits_whatever_its_wording(name: str) -> None:
    dataset = dataset_of(name)
    train = {canonical(name, p.question) for p in dataset.train}
    validation = {canonical(name, p.question) for p in dataset.validation}
    tests = [canonical(name, p.question) for b in benchmarks_of(name).values() for p in b]
    assert train.isdisjoint(validation) and train.isdisjoint(tests)
    assert validation.isdisjoint(tests)
    assert len(train) == len(dataset.train) and len(validation) == len(dataset.validation)


def test_letter_and_order_of_terms_make_no_other_equation() -> None:
    rng = random.Random(4)
    for steps in (3, 4, 5, 6):
        equation = draw_equation(rng, steps)
        twin = replace(
            equation,
            unknown="t" if equation.unknown != "t" else "z",
            left_x=equation.left_x[::-1],
            left_c=equation.left_c[::-1],
            right_c=equation.right_c[::-1],
        )
        assert twin.question(worded=False) != equation.question(worded=False)
        assert twin.canonical() == equation.canonical()
        other = replace(equation, right_x=equation.right_x + 1)
        assert other.canonical() != equation.canonical()


@pytest.mark.parametrize("name", FAMILIES)
def test_pretraining_never_shows_a_question_of_another_split(name: str) -> None:
    family: Any = load_family(name)
    dataset = dataset_of(name)
    later = {canonical(name, p.question) for p in (*dataset.train, *dataset.validation)}
    later |= {canonical(name, p.question) for b in benchmarks_of(name).values() for p in b}
    for habit in (False, True):
        stream = family.pretraining(random.Random(1), habit=habit)
        seen = {canonical(name, q) for q, _ in itertools.islice(stream, 5000)}
        assert seen.isdisjoint(later)


def test_splits_cover_the_space_in_their_shares() -> None:
    counts: dict[str, int] = {}
    for i in range(20_000):
        split = split_of(f"question {i}")
        counts[split] = counts.get(split, 0) + 1
    assert set(counts) == {"pretrain", "train", "validation", "test"}
    assert split_of("question 7") == split_of("question 7")
    assert counts["pretrain"] > counts["train"] > counts["test"] > counts["validation"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_grader_reads_every_demonstration(name: str) -> None:
    dataset = dataset_of(name, slip=0.0)
    for problem in (*dataset.demonstrations, *dataset.validation):
        answer = last_boxed(problem.demonstration)
        assert answer is not None
        assert integer_verdict(problem.answer, answer) == "correct", problem


@pytest.mark.parametrize("name", FAMILIES)
def test_slips_come_at_the_configured_rate(name: str) -> None:
    asked, slipped = 0, 0

    def alter(result: int, choice: int) -> int:
        nonlocal slipped
        slipped += 1
        return result + 1

    write = slipping(random.Random(0), 0.08, alter)
    for i in range(20_000):
        asked += 1
        write("+", i % 10, 1, i)
    assert slipped / asked == pytest.approx(0.08, abs=0.006)
    # A demonstration of k computed values ends right with about (1 - slip)^k.
    dataset = dataset_of(name, slip=0.15, demonstrations=500)
    wrong = sum(
        integer_verdict(p.answer, last_boxed(p.demonstration) or "") != "correct"
        for p in dataset.demonstrations
    )
    expected = sum(1 - 0.85**p.difficulty for p in dataset.demonstrations)
    assert 0.6 * expected < wrong < 1.2 * expected
    perfect = dataset_of(name, slip=0.0, demonstrations=500)
    assert [p.question for p in perfect.train] == [p.question for p in dataset.train]


def test_a_slip_in_a_chain_is_carried_on() -> None:
    dataset = dataset_of("chains", slip=0.5, demonstrations=300)
    for problem in dataset.demonstrations:
        lines = problem.demonstration.split(" ; ")
        last = "nothing"
        for line in lines[:-1]:
            left, result = line.split(" = ")[1], line.split(" = ")[2]
            assert last in ("nothing", left.split()[0])
            last = result
        assert last_boxed(lines[-1]) == last


@pytest.mark.parametrize("name", FAMILIES)
def test_demonstrations_are_scarce_and_short(name: str) -> None:
    dataset = dataset_of(name, demonstrations=50, demonstration_max_steps=3)
    assert len(dataset.demonstrations) == 50
    assert max(p.difficulty for p in dataset.demonstrations) <= 3
    assert not dataset_of(name, demonstrations=0).demonstrations


@pytest.mark.parametrize("name", FAMILIES)
def test_every_word_is_in_the_vocabulary(name: str) -> None:
    family: Any = load_family(name)
    tokenizer = build_tokenizer(family.vocabulary(), context_tokens=512)
    dataset = dataset_of(name, slip=0.5, demonstrations=300)
    texts = [p.question for p in dataset.train]
    texts += [p.demonstration for p in dataset.demonstrations]
    texts += [p.question for b in benchmarks_of(name).values() for p in b]
    stream = family.pretraining(random.Random(2), habit=True)
    texts += itertools.chain.from_iterable(itertools.islice(stream, 3000))
    unknown = tokenizer.unk_token_id
    bad = [text for text in texts if unknown in tokenizer(text)["input_ids"]]
    assert not bad, bad[:3]
    assert tokenizer.decode(tokenizer(texts[0])["input_ids"]) == texts[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_decides_the_questions(name: str) -> None:
    assert dataset_of(name, seed=1) == dataset_of(name, seed=1)
    assert dataset_of(name, seed=1).train[0].question != dataset_of(name, seed=2).train[0].question


def test_the_exact_writer_is_exact() -> None:
    assert exact("+", 2, 3, 5) == 5


@pytest.mark.parametrize("name", FAMILIES)
def test_asking_for_more_questions_than_there_are_is_refused(name: str) -> None:
    with pytest.raises(ProblemError, match=r"no more different train questions of \d steps; lower"):
        dataset_of(name, train_size=20_000)


# -- the checks ---------------------------------------------------------------------------------

SOUND = Problem("a/1", "find a", "1", 1)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (Problem("a/2", "find b", "  ", 1), "set: problem 'a/2' has an empty gold answer"),
        (Problem("a/2", " ", "1", 1), "set: problem 'a/2' has an empty question"),
        (Problem("a/1", "find b", "1", 1), "set: the id 'a/1' occurs twice"),
    ],
)
def test_faulty_problems_are_named(bad: Problem, sentence: str) -> None:
    check_problems("set", [SOUND])
    with pytest.raises(ProblemError) as error:
        check_problems("set", [SOUND, bad])
    text = str(error.value)
    assert text.startswith(sentence) and "\n" not in text


def test_a_test_question_in_the_training_set_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"^test: question 't/1' is also question 'a/1'"):
        check_disjoint("train", [SOUND], "test", [Problem("t/1", "Find  A ", "1", 1)])
    check_disjoint("train", [SOUND], "test", [Problem("t/1", "find b", "1", 1)])
