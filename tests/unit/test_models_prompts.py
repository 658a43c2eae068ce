"""Chat templates: the same prompt on every day, and what they leave open."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from bridge.evaluation.model import EvaluatedPolicy as EvaluatedPolicy
from bridge.models.checkpoint import CheckpointError, load_policy, save_policy
from bridge.models.prompts import dated
from tests.fixtures.released import CHATML, KINDS, make_released

# As Llama 3.2's, Mistral Small's, gpt-oss's and SmolLM3's templates ask.
CLOCKS = {
    "{%- if date_string is not defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "1 Jan 1970" %}{%- endif %}{%- endif %}{{ date_string }}': "26 Jul 2024",
    "{{ strftime_now('%Y-%m-%d') }}": "2024-07-26",
    '{{- "Current date: " + strftime_now ( format="%A, %B %d, %Y" ) }}': (
        "Current date: Friday, July 26, 2024"
    ),
}


class LaterDay(datetime):
    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(2031, 1, 2)


@pytest.mark.parametrize("clock", list(CLOCKS))
def test_prompts_do_not_change_with_the_day(
    clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = replace(KINDS["qwen-chat"], template=clock + CHATML)
    folder = make_released(tmp_path / "model", kind)
    policy = load_policy(folder)
    prompt = policy.prompt("user")
    assert prompt.startswith(f"{CLOCKS[clock]}<|im_start|>user\nuser<|im_end|>")
    monkeypatch.setattr(chat_template_utils, "datetime", LaterDay)
    assert load_policy(folder).prompt("user") == prompt
    lm = EvaluatedPolicy(folder, batch_size=1, max_response_tokens=4)
    assert lm.apply_chat_template([{"role": "user", "content": "user"}]) == prompt
    save_policy(policy, tmp_path / "saved")
    saved = (tmp_path / "saved/chat_template.jinja").read_text()
    assert "strftime_now(" not in saved, "other readers of the policy see the same prompts"


def test_a_clock_that_cannot_be_stopped_is_refused(tmp_path: Path) -> None:
    template = "{% set f = '%Y' %}{{ strftime_now(f) }}" + CHATML
    folder = make_released(tmp_path, replace(KINDS["qwen-chat"], template=template))
    with pytest.raises(CheckpointError, match=r"would change from day to day; write a date"):
        load_policy(folder)


def test_a_template_without_a_clock_is_left_alone() -> None:
    assert dated(CHATML) == CHATML


@pytest.mark.parametrize(
    ("after", "opens"),
    [
        ("", False),
        ("<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("<thinking>", True),
        ("<seed:think>", True),
        ("[THINK]", True),
        ("[THINK][/THINK]", False),
        ("◁think▷", True),
        ("<|begin_of_thought|>\n", True),
        ("<|begin_of_thought|><|end_of_thought|>", False),
        ("<reasoning>\nLet us see.", True),
        ("<think></think><thought>", True),
        ("<answer>", False),
        ("I think < 3 > 2", False),
    ],
)
def test_thinking_that_the_template_opens(after: str, opens: bool, tmp_path: Path) -> None:
    template = CHATML.replace("assistant\n{% endif %}", f"assistant\n{after}{{% endif %}}")
    kind = replace(KINDS["qwen-chat"], template=template)
    policy = load_policy(make_released(tmp_path, kind))
    assert policy.prompt("<think>").endswith(f"assistant\n{after}")
    assert policy.prompt_opens_thinking is opens
