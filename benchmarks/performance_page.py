"""The tables of docs/performance.md, from benchmarks/results/ alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.pages import replace_part
from benchmarks.passes import PARTS, RESULTS
from bridge.store.records import ROOT, read_json

PAGE = ROOT / "docs" / "performance.md"
Numbers = dict[str, Any]
STAGE_NAMES = {
    "prompt_forward": "prompts",
    "decode": "decoding",
    "update_forward": "update, forward",
    "update_backward": "update, backward",
    "optimizer": "clipping and AdamW",
    "rest": "rest",
}


def table(head: str, rows: list[list[str]]) -> list[str]:
    """Markdown; numbers in all columns but the first."""
    columns = head.split("|")
    lines = [f"| {' | '.join(c.strip() for c in columns)} |"]
    lines.append("|---" + "|---:" * (len(columns) - 1) + "|")
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def number(value: float) -> str:
    """With three digits, and commas in what is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def goals(parts: dict[str, Numbers]) -> list[str]:
    head = table("what | before | now | goal | ", [])
    return [*head, *(goal.line(parts) for goal in GOALS)]


def grpo(numbers: Numbers) -> list[str]:
    rows = []
    for name in ("natural", "forced"):
        found = numbers[name]
        for what in ("rollout", "update", "step"):
            if what in found:
                text = f"{what}, {name}: {found['answer_tokens']:.0f} tokens on average"
                rows.append([text, *_turns(found[what])])
    if "sft" in numbers:
        rows.append([f"SFT, {numbers['sft']['tokens']:,} tokens", *_turns(numbers["sft"]["epoch"])])
    lines = table("| ours, CPU s | theirs, CPU s | theirs / ours", rows)
    if "apart" in numbers["forced"]:
        apart = [max(numbers[n]["apart"][key] for n in ("natural", "forced")) for key in GRADIENTS]
        lines += ["", f"The trainers agree: loss to {apart[0]:.0e}, gradient to {apart[1]:.0e}."]
    return lines


GRADIENTS = ("loss", "gradient")


def _turns(found: Numbers) -> list[str]:
    return [number(found[key]) for key in ("ours_s", "theirs_s", "ratio")]


def floors(numbers: Numbers) -> list[str]:
    rows = []
    for size, found in numbers["sizes"].items():
        for stage, text in STAGE_NAMES.items():
            one = found["stages"][stage]
            row = [f"{size}: {text}", number(1e3 * one["seconds"])]
            row.append(f"{100 * one['share']:.0f} %")
            floor = number(1e3 * one["floor_s"]) if "floor_s" in one else ""
            rows.append([*row, floor, number(one["reached"]) if floor else ""])
    lines = table("stage | CPU ms | of the step | floor, ms | floor / measured", rows)
    rates = (numbers["matrix_gflops"], numbers["bandwidth_gb_per_s"])
    said = "Measured: {:.0f} billion float32 operations and {:.0f} GB per second, one thread."
    return [*lines, "", said.format(*rates)]


def sizes(numbers: Numbers) -> list[str]:
    rows = []
    for point in numbers["points"]:
        row = [point["size"], *(str(point[f"{k}_tokens"]) for k in ("prompt", "answer"))]
        ours, theirs = point["ours"], point.get("theirs", {})
        for key in ("cpu_s", "peak_mib"):
            mine, other = ours.get(key), theirs.get(key)
            row += [number(x) if x else "-" for x in (mine, other)]
            row.append(number(other / mine) if mine and other else "")
        rows.append(row)
    head = "parameters | prompt | answer | ours, CPU s | TRL | TRL / ours | ours, MiB | TRL"
    return table(f"{head} | TRL / ours", rows)


def bridge(numbers: Numbers) -> list[str]:
    rows = [[row["name"], number(row["cpu_s"])] for row in numbers["rows"]]
    lines = table("step | CPU s", rows)
    over = numbers["over_parts"]
    return [*lines, "", f"BRIDGE over RL step, SFT gradient and RL gradient together: {over:.2f}."]


def rollouts(numbers: Numbers) -> list[str]:
    rows = [
        [name, *(number(found[key]) for key in ("median", "lowest", "highest"))]
        for name, found in sorted(numbers["tokens_per_s"].items())
    ]
    return table("engine | tokens per second | lowest | highest", rows)


def grading(numbers: Numbers) -> list[str]:
    alone, ours, pairs = numbers["alone"], numbers["ours"], f"{numbers['pairs']:,}"
    rows = [
        [name, number(n["seconds"]), number(n["cpu_s"]), f"{n['accepted']:,} of {pairs}"]
        for name, n in (("math-verify alone", alone), (f"ours, {ours['workers']} workers", ours))
    ]
    rows.append(["ours, the same again", number(ours["again_s"]), "", ""])
    limit = f"On {alone['at_limit']} pairs math-verify alone spent its time limit, "
    limit += f"{number(alone['at_limit_s'])} s that are not in its row."
    braces = ", ".join(f"{name} {number(s)}" for name, s in numbers["braces_cpu_s"].items())
    limit += f" CPU s of the training process for 5 MB of braces: {braces}."
    return [*table("| seconds | CPU s | accepted", rows), "", limit]


def planning(numbers: Numbers) -> list[str]:
    rows = [
        [name.replace("_", " "), *(number(found[key]) for key in ("cpu_s", "peak_mib"))]
        for name, found in sorted(numbers.items())
    ]
    return table("program | CPU s | peak MiB", rows)


def report(numbers: Numbers) -> list[str]:
    rows = [[name.removesuffix("_s"), number(s)] for name, s in sorted(numbers["many"].items())]
    return table("a report of 1,008 runs | s", rows)


def cached(numbers: Numbers) -> list[str]:
    keys = ("wall_s", "cpu_s", "peak_mib")
    rows = [[name, *(number(found[key]) for key in keys)] for name, found in numbers.items()]
    return table("suite | s by the clock | CPU s | peak MiB", rows)


TABLES: dict[str, Callable[[Numbers], list[str]]] = {
    "grpo": grpo, "floors": floors, "sizes": sizes, "bridge": bridge, "rollouts": rollouts,
    "grading": grading, "planning": planning, "cached": cached, "report": report,
}  # fmt: skip


def sections(records: list[Numbers]) -> dict[str, str]:
    """What stands between the markers, by name: one table per kind of processor."""
    found = {"goals": [(r, goals(r["parts"]), "") for r in records]}
    for name in PARTS:
        found[name] = [
            (r, TABLES[name](r["parts"][name]["numbers"]), _about(r["parts"][name]))
            for r in records
            if r["parts"].get(name, {}).get("numbers")
        ]
    return {name: _text(blocks) for name, blocks in found.items()}


def _about(part: Numbers) -> str:
    return " ".join([f"Commit {part['commit']}, load {part['load']}.", *part["missing"]])


def _text(blocks: list[tuple[Numbers, list[str], str]]) -> str:
    if not blocks:
        return "Not measured yet."
    parts = []
    for record, lines, about in blocks:
        machine = record["processor"]
        features = ", ".join(machine["features"]) or "no known features"
        about = f"{machine['cores']} cores, {machine['model']} ({features}). {about}".strip()
        parts.append("\n".join([about, "", *lines]))
    return "\n\n".join(parts)


def write_page(page: Path = PAGE, folder: Path = RESULTS) -> None:
    """Write every table anew."""
    for name, text in sections([read_json(path) for path in sorted(folder.glob("*.json"))]).items():
        replace_part(page, name, text)
