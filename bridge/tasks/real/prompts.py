"""What the families of real data ask for after the problem itself."""

from __future__ import annotations

from typing import Final

# SimpleRL's qwen-boxed user turn; other models get the same words inside their own chat template.
BOXED: Final = "\nPlease reason step by step, and put your final answer within \\boxed{}."
LETTER: Final = (
    "\nPlease reason step by step, and put the letter of the right option within \\boxed{}."
)
ROLES: Final = (
    "\nPlease reason step by step, and put who is what within \\boxed{}, "
    "like \\boxed{Zoe is a knight, Max is a knave}."
)
ACCEPTABLE: Final = (
    "\nIs this sentence acceptable English? Put 1 for yes or 0 for no within \\boxed{}."
)

EQUATIONS: Final = "\nWrite one equation per line, then the answer within \\boxed{}."


def posed(question: str) -> str:
    """A question without the instruction that all questions of its family share."""
    for instruction in (BOXED, LETTER, ROLES, ACCEPTABLE, EQUATIONS):
        question = question.removesuffix(instruction)
    return question
