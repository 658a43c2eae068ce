"""Whether RL has anything to learn from, told from verdicts alone."""

from collections.abc import Mapping

from bridge.grading.verdicts import Verdict


def missing_signal(
    verdicts: Mapping[Verdict, int], reward: str | None, limit_tokens: int
) -> str | None:
    """What keeps RL from a signal, where not one answer could be read; None else.

    Args:
        verdicts: how often each was given.
        reward: the user's function that judged; None for the comparison with the gold answers.
        limit_tokens: longest answer.
    """
    n, cut = sum(verdicts.values()), verdicts.get("truncated", 0)
    if n == 0 or verdicts.get("unparsed", 0) + cut < n:
        return None
    what = "had a box" if reward is None else f"could be read by {reward}"
    length = f" ({cut} were cut at {limit_tokens} tokens)" if cut else ""
    return (
        f"0 of {n} answers {what}{length}: RL has no signal; begin with SFT (cold_start, mixing, "
        "bridge), or ask for the box in the questions and allow for longer answers."
    )
