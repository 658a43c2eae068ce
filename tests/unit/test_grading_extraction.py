"""Finding the last complete box in untrusted text."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.grading.extraction import final_part, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{ 7 }", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"a line \\\boxed{7}", "7"),
        # The last one wins, and one that never closes is no box.
        (r"\boxed{3} no, \boxed{4}", "4"),
        (r"\boxed{3} no, \boxed{4", "3"),
        (r"\boxed{3 + \boxed{4}", "4"),
        (r"\boxed{3}} } \boxed{4}", "4"),
        (r"} { \boxed{3}", "3"),
        # Escaped braces are not braces, a line break before a brace is not an escape.
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
        (r"\boxed{1\}", None),
        # Nested boxes: one inside another is unwrapped only when it is all there is.
        (r"\boxed{ \boxed{4} }", "4"),
        (r"\boxed{\boxed{\fbox{4}}}", "4"),
        (r"\boxed{\boxed 4}", "4"),
        (r"\boxed{x=\boxed{5}}", r"x=\boxed{5}"),
        (r"\boxed{\boxed{3} + \boxed{4}}", r"\boxed{3} + \boxed{4}"),
        # An empty box is talk about the format.
        (r"\boxed{5}, as asked in \boxed{}.", "5"),
        (r"put it in \boxed{ }", None),
        # So is one with a placeholder.
        (r"\boxed{5}, as asked in \boxed{...}.", "5"),
        (r"\boxed{5}. \boxed{\ldots}", "5"),
        (r"\boxed{5}. \boxed{?}", "5"),
        (r"\boxed{5}. \boxed{\text{}}", "5"),
        (r"\boxed{5}. \boxed{~}", "5"),
        (r"\boxed{5}. \boxed{\_\_\_}", "5"),
        (r"\boxed{5}. \boxed{\square}", "5"),
        (r"\boxed{5}. \boxed{\text{your answer here}}", "5"),
        (r"\boxed{5}. \boxed{<answer>}", "5"),
        (r"put it in \boxed{answer}", None),
        (r"\boxed{\{\}}", r"\{\}"),
        (r"\boxed{\text{answers}}", r"\text{answers}"),
        # Without braces.
        (r"$\boxed 7$", "7"),
        (r"is \boxed 12. And so on", "12"),
        (r"is \boxed 1.5.", "1.5"),
        (r"\boxed ", None),
        (r"\boxed", None),
        (r"\boxedfoo{4}", None),
        (r"boxed{4}", None),
        ("", None),
        ("no box", None),
    ],
)
def test_last_complete_box(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{3}</think> \boxed{4}", "4"),
        (r"\boxed{4} <think>is it \boxed{3}?</think>", "4"),
        (r"<think>\boxed{3}</think> none", None),
        # Thinking that never ends holds no final answer, whatever came before it.
        (r"\boxed{4} <think> wait, \boxed{3}", None),
        (r"<think>\boxed{3}", None),
        # The block was opened by the prompt.
        (r"I guess \boxed{3} </think> \boxed{4}", "4"),
        (r"I guess \boxed{3} </think>", None),
        # A tag quoted inside the thinking closes nothing.
        (r"<think> a <think> b </think> \boxed{3} </think> \boxed{4}", "4"),
        (r"<think> the tag <think> </think> \boxed{4}", "4"),
        # Talk about the tags opens and closes nothing.
        (r'Use "<think>" tags. So \boxed{4}', "4"),
        (r"I used `<think>` before. \boxed{4}", "4"),
        (r"The <think> block is over. \boxed{4}", "4"),
        (r"<think>\boxed{3}</think>\boxed{4}. I closed the </think> tag.", "4"),
        (r"<think>a <think> block \boxed{3}", None),
        # Whatever its tags are.
        (r"<thinking>\boxed{3}", None),
        (r"[THINK]\boxed{3}[/THINK] \boxed{4}", "4"),
        (r"<|begin_of_thought|>\boxed{3}<|end_of_thought|> \boxed{4}", "4"),
        # Talk about thinking after the answer is no block.
        (r"\boxed{4} I did not need a <think> block.", "4"),
    ],
)
def test_thinking_is_not_the_answer(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7} wait", None),
        (r"so \boxed{7} wait </think> \boxed{8}", "8"),
        (r"so \boxed{7} [/THINK] \boxed{8}", "8"),
    ],
)
def test_thinking_that_the_prompt_opened_is_no_answer(text: str, answer: str | None) -> None:
    assert last_boxed(text, thinking=True) == answer


@pytest.mark.parametrize("content", ["1\x002", "\ud800", "\u200f7\u200f", "٣", "7\n8", "é"])
def test_odd_characters_come_through(content: str) -> None:
    assert last_boxed(rf"a \boxed{{{content}}} b") == content


_PIECES = [r"\boxed{", r"\fbox ", "{", "}", "\\", r"\{", "7", " ", "$", "<think>", "</think>"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_survived_and_the_answer_is_in_it(text: str) -> None:
    answer = last_boxed(text)
    part = final_part(text)
    assert answer is None or (part is not None and answer and answer in part)


@settings(max_examples=100, deadline=None)
@given(
    st.text("ab{}\\ $", max_size=20).map(lambda s: s.replace("\\", "").replace("}", "")),
    st.recursive(
        st.sampled_from(["7", r"\{", r"\}", r"\\", "x y"]),
        lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    ),
)
def test_a_balanced_box_after_anything_is_found_whole(before: str, content: str) -> None:
    expected = content.strip() if set(content) - set("{} ") else None
    assert last_boxed(f"{before}\\boxed{{{content}}} so") == expected


_LONG_TEXTS = r"""
from bridge.grading.extraction import last_boxed
n = 150_000
assert last_boxed("x" * 60 * n + r"\boxed{7}") == "7"
assert last_boxed("\\" * 10 * n) is None
assert last_boxed(r"\boxed" + " " * 10 * n) is None
assert last_boxed(r"\boxed{7}" + "<think>" * n) == "7"  # talk: no box behind the tag
assert last_boxed("<think></think>" * n + r"\boxed{7}") == "7"
assert last_boxed("{" * n) is None
assert last_boxed("}" * n) is None
assert last_boxed(r"\boxed{" * n) is None
assert last_boxed(r"\boxed{" * n + "7" + "}" * n) == "7"
assert last_boxed(r"\boxed{ x" * n + "}" * n) is not None
assert last_boxed(r"\boxed 7 " * n) == "7"
"""


@pytest.mark.slow
def test_long_texts_take_linear_time() -> None:
    # Quadratic work on these would take many minutes, linear work takes a few seconds.
    subprocess.run([sys.executable, "-c", _LONG_TEXTS], check=True, timeout=60)
