"""The lenient yardstick beside the strict verifier: the last number of the text, boxed or not.

For studies only, never a reward: a paper that trains on a strict format and scores the last label
of the output measures with two yardsticks, and their difference is what a format is worth.
"""

import re

_NUMBER = re.compile(r"-?[0-9]+")


def last_number_is(text: str, gold: str) -> bool:
    """Whether the last integer in the text is the gold answer; untrusted text, linear time.

    A gold answer that is not an integer never is.
    """
    numbers = _NUMBER.findall(text)
    return bool(numbers) and numbers[-1] == gold.strip()
