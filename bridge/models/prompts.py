"""What a chat template makes of a question: the same on every day, and how its answer may end."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Final

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from bridge.grading.extraction import THINKING_TAG, opens
from bridge.models import CheckpointError

TODAY: Final = datetime(2024, 7, 26)
"""The date of every prompt: the one that Llama 3's template writes where it knows no clock."""

_CLOCK: Final = re.compile(
    r"""\bstrftime_now\s*\(\s*(?:format\s*=\s*)?(["'])(?P<format>[^"'\\]*)\1\s*\)"""
)
_CLOCK_LEFT: Final = re.compile(r"\bstrftime_now\s*\(")

_QUESTION, _ANSWER = "QUESTION-17", "ANSWER-17"


def dated(template: str) -> str:
    """``template`` with :data:`TODAY` for whatever it asks of the clock.

    transformers gives a template ``strftime_now`` and nothing else that changes with the day. The
    date is written into the text, so every reader of a saved checkpoint makes the same prompt.

    Raises:
        CheckpointError: the format that it asks for is not written out.
    """
    text = _CLOCK.sub(lambda call: json.dumps(TODAY.strftime(call["format"])), template)
    if _CLOCK_LEFT.search(text):
        raise CheckpointError(
            "the chat template calls strftime_now with more than a format in quotes, so its "
            "prompts would change from day to day; write a date into it."
        )
    return text


def rendered(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The text of a user turn, up to where the answer begins."""
    turn = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def opens_thinking(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template leaves a block of thinking open where the answer begins."""
    _, _, after = rendered(tokenizer, _QUESTION).rpartition(_QUESTION)
    open_ = False
    for tag in THINKING_TAG.finditer(after):
        open_ = opens(tag)
    return open_


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the template puts behind an answer; None where it puts none, or
    renders no answers."""
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:  # some take questions only
        return None
    _, found, after = text.rpartition(_ANSWER)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in ids if i in special), None)
