"""Columns of the hub's data sets -> the keys of our files (id, problem, answer, solution, ...)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge.grading.extraction import last_boxed

HubRow = Mapping[str, Any]


def _math500(row: HubRow, id_: str) -> dict[str, Any]:
    return {**row, "id": row["unique_id"], "answer": row["answer"], "problem": row["problem"]}


def _question_answer(row: HubRow, id_: str) -> dict[str, Any]:
    return {"id": id_, "problem": row["question"], "answer": _integral(str(row["answer"]))}


def _problem_answer(row: HubRow, id_: str) -> dict[str, Any]:
    """``problem``, ``answer`` and perhaps ``solution``."""
    return {
        "id": id_,
        "problem": row["problem"],
        "answer": _integral(str(row["answer"])),
        "solution": row.get("solution"),
    }


def _olympiadbench(row: HubRow, id_: str) -> dict[str, Any]:
    answers = row["final_answer"]
    answer = answers if isinstance(answers, str) else ",".join(answers)
    return {"id": f"olympiadbench/{row['id']}", "problem": row["question"], "answer": answer}


def _math_boxed(row: HubRow, id_: str) -> dict[str, Any]:
    """MATH with its human solution; the gold answer is the last box."""
    return {**row, "id": id_, "answer": last_boxed(row["solution"]) or ""}


def _gsm8k(row: HubRow, id_: str) -> dict[str, Any]:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return {"id": id_, "problem": row["question"], "answer": answer, "solution": row["answer"]}


def _simplerl(row: HubRow, id_: str) -> dict[str, Any]:
    """A prompt in the qwen-boxed template, the gold answer beside it, the level in ``level``."""
    answer = row["gt_answer"] if "gt_answer" in row else row["answer"]
    return {
        "id": id_,
        "problem": row["question"],
        "answer": str(answer or ""),
        "level": row.get("level"),
    }


def _limr(row: HubRow, id_: str) -> dict[str, Any]:
    return {"id": id_, "problem": row["prompt"], "answer": str(row["answer"])}


def _deepmath(row: HubRow, id_: str) -> dict[str, Any]:
    return {
        "id": id_,
        "problem": row["question"],
        "answer": row["final_answer"],
        "solutions": [row[f"r1_solution_{k}"] for k in (1, 2, 3)],
    }


def _gpqa(row: HubRow, id_: str) -> dict[str, Any]:
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {k}"] for k in (1, 2, 3))]
    listed = "\n".join(f"{letter}. {o.strip()}" for letter, o in zip("ABCD", options, strict=True))
    return {"id": id_, "problem": f"{row['Question'].strip()}\n\n{listed}", "answer": "A"}


def _knights_knaves(row: HubRow, id_: str) -> dict[str, Any]:
    roles = [
        f"({i}) {name} is a {'knight' if knight else 'knave'}"
        for i, (name, knight) in enumerate(zip(row["names"], row["solution"], strict=True), 1)
    ]
    return {
        "id": id_,
        "problem": row["quiz"],
        "answer": "\n".join(roles),
        "solution": "\n".join([row["cot_head"], *row["cot_repeat_steps"], row["cot_foot"]]),
        "level": len(roles),
    }


def _cola(row: HubRow, id_: str) -> dict[str, Any]:
    """A sentence with its label: 1 acceptable, 0 not, -1 hidden."""
    return {"id": id_, "problem": row["sentence"], "answer": str(row["label"])}


def _integral(answer: str) -> str:
    """``027`` and ``27.0`` are ``27``, as AIME and AMC golds are integers."""
    match = re.fullmatch(r"0*([0-9]+)(?:\.0+)?", answer.strip())
    return match[1] if match else answer


READERS: Final[dict[str, Callable[[HubRow, str], dict[str, Any]]]] = {
    "cola": _cola,
    "deepmath": _deepmath,
    "gpqa": _gpqa,
    "gsm8k": _gsm8k,
    "knights_knaves": _knights_knaves,
    "limr": _limr,
    "math500": _math500,
    "math_boxed": _math_boxed,
    "olympiadbench": _olympiadbench,
    "problem_answer": _problem_answer,
    "question_answer": _question_answer,
    "simplerl": _simplerl,
}
"""Name in the manifest -> reader of one row; a missing column is a KeyError."""
