"""Which training problems get an expert's completion: matched by identity, right, short enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from bridge.grading import GradeItem, GraderPool
from bridge.machine.hub import HubError, snapshot
from bridge.tasks.base import Coverage, ProblemError
from bridge.tasks.real.sources import Item

Offer = tuple[str, Mapping[str, Sequence[str]]]
"""Name of a source, and its completions by the identity of the problem."""


def choose(
    items: Sequence[Item], offers: Sequence[Offer], *, fits: Callable[[str], bool], pool: GraderPool
) -> tuple[dict[str, str], Coverage]:
    """Return one completion by item id, and the coverage.

    The first completion that fits and is correct by the run's own grader wins, in the order of the
    offers. The length is looked at first: it is cheap, and a cut trace teaches no answer.
    """
    candidates: list[tuple[Item, str, str]] = []
    offered: set[str] = set()
    for item in items:
        for source, completions in offers:
            for text in completions.get(item.identity, ()):
                offered.add(item.id)
                if fits(text):
                    candidates.append((item, source, text))
    graded = pool.grade([GradeItem(text, item.answer) for item, _, text in candidates])
    chosen: dict[str, str] = {}
    by_source: Counter[str] = Counter()
    tried: set[str] = set()
    for (item, source, text), result in zip(candidates, graded, strict=True):
        tried.add(item.id)
        if item.id not in chosen and result.verdict == "correct":
            chosen[item.id] = text
            by_source[source] += 1
    return chosen, Coverage(
        prompts=len(items),
        demonstrated=len(chosen),
        unmatched=len(items) - len(offered),
        wrong=len(tried - set(chosen)),
        too_long=len(offered - tried),
        by_source=dict(by_source),
    )


def token_limit(limit: int, tokenizer: str | None) -> Callable[[str], bool]:
    """Return the test whether a completion, with its end-of-turn token, has at most ``limit``.

    Args:
        tokenizer: folder with a tokenizer.json, or ``repository@commit`` of the hub. None counts
            UTF-8 bytes, of which no byte-level tokenizer makes more tokens: an upper bound.

    Raises:
        ProblemError: there is no such tokenizer.
    """
    if tokenizer is None:
        return lambda text: len(text.encode()) < limit
    encode = _tokenizer(tokenizer)
    return lambda text: len(text.encode()) < limit or encode(text) < limit


@cache
def _tokenizer(name: str) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    repo, _, commit = name.partition("@")
    try:
        folder = snapshot("model", repo, commit, ["tokenizer.json"]) if commit else Path(name)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except HubError as error:
        raise ProblemError(f"option tokenizer: {error}") from error
    except Exception as error:  # the library raises the plain class, whatever the cause
        raise ProblemError(
            f"option tokenizer: {name} holds no readable tokenizer.json; name a checkpoint folder "
            "or repository@commit."
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
