"""Tables as text: Markdown, LaTeX (booktabs), HTML and plain columns, with everything escaped.

A `Sheet` holds finished strings; what they say is decided in `tables`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

import pandas as pd

from bridge.store.records import write_text

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "µ": r"$\mu$",
    "φ": r"$\phi$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "–": "--",
    "—": "---",
}

INVISIBLE = "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f"
"""Marks of direction, spaces of no width and tags, as a class of a regular expression: they make
text look like other text. Joiners stay, which some scripts need."""
_ONE_SPACE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029{INVISIBLE}]+")

WIDE = 7
"""More columns than this do not fit a LaTeX page at its own size."""


@dataclass(frozen=True)
class Value:
    """A cell: the main text, a smaller second part, and whether it stands out (`highest`).

    What standing out means is the sheet's to say: the column's highest mean, a small p.
    `stack` is the second part for narrow layouts, one entry per line.
    """

    text: str
    detail: str = ""
    stack: tuple[str, ...] = ()
    highest: bool = False
    is_word: bool = False
    column: str = ""
    """Of a head: the benchmark whose column this is; empty: of no benchmark."""
    group: str = ""
    """Of a head: the group that the column stands under; empty: under none."""

    @property
    def plain(self) -> str:
        """Both parts on one line."""
        return f"{self.text} {self.detail}".strip()


@dataclass(frozen=True)
class Sheet:
    """One table: a title, column heads, rows (the first value names the row) and notes.

    `source` is the line that is true of this table only: how many seeds, which commit and data.
    `prose` says that cells hold sentences, which need room to wrap.
    """

    title: str
    head: Sequence[Value]
    rows: Sequence[Sequence[Value]]
    notes: Sequence[str] = field(default_factory=list)
    source: str = ""
    prose: bool = False

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Runs of columns under one group, (name, how many), over all of `head`; empty where no
        column has one."""
        runs = [(name, len(list(part))) for name, part in groupby(v.group for v in self.head)]
        return runs if any(name for name, _ in runs) else []

    @property
    def footer(self) -> list[str]:
        """Everything that stands under the table on its own."""
        return [*self.notes, *([self.source] if self.source else [])]


def markdown(sheets: Iterable[Sheet]) -> str:
    """Sheets as Markdown; text from data cannot open HTML, a link or a new cell."""
    parts = []
    for sheet in sheets:
        lines = [f"### {_markdown(sheet.title)}", ""]
        lines.append(_markdown_row(value.plain for value in sheet.head))
        rule = "---" if sheet.prose else "---:"
        lines.append("|" + "|".join(["---", *[rule] * (len(sheet.head) - 1)]) + "|")
        for row in sheet.rows:
            cells = []
            for value in row:
                text = _markdown(value.text)
                text = f"**{text}**" if value.highest else text
                cells.append(f"{text} {_markdown(value.detail)}".strip())
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *[f"- {_markdown(note)}" for note in sheet.footer]]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts) + "\n"


def latex(sheets: Iterable[Sheet]) -> str:
    """Sheets as LaTeX `table*` environments for a document that loads booktabs and graphicx.

    Tables of many columns are scaled to the width of the page.
    """
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for sheet in sheets:
        wide = len(sheet.head) > WIDE
        lines = [
            r"\begin{table*}[t]",
            r"\centering\small",
            rf"\caption{{{latex_text(sheet.title)}}}",
            *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
            rf"\begin{{tabular}}{{{_latex_columns(sheet)}}}",
            r"\toprule",
            *_latex_groups(sheet),
            " & ".join(_latex_value(value) for value in sheet.head) + r" \\",
            r"\midrule",
        ]
        lines += [" & ".join(_latex_value(value) for value in row) + r" \\" for row in sheet.rows]
        lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide]
        if sheet.footer:
            notes = " ".join(latex_text(note) for note in sheet.footer)
            lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}")
        lines.append(r"\end{table*}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def html(sheets: Iterable[Sheet]) -> str:
    """Sheets as HTML fragments: a table with its caption, then its notes; all text escaped."""
    parts = []
    for sheet in sheets:
        lines = ["<table>", f"<caption>{_html(sheet.title)}</caption>", "<thead>"]
        if sheet.groups:
            spans = [
                f'<th colspan="{size}" scope="colgroup">{_html(name)}</th>'
                for name, size in sheet.groups
            ]
            lines.append(f"<tr>{''.join(spans)}</tr>")
        heads = [f'<th scope="col">{_html_value(value)}</th>' for value in sheet.head]
        lines += [f"<tr>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
        for row in sheet.rows:
            name, *cells = [_html_value(value) for value in row]
            data = "".join(f"<td>{cell}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{name}</th>{data}</tr>')
        lines += ["</tbody>", "</table>"]
        if sheet.footer:
            notes = [f"<li>{_html(note)}</li>" for note in sheet.footer]
            lines += ["<ul>", *notes, "</ul>"]
        parts.append("\n".join(lines))
    return "\n".join(parts) + "\n"


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped and control characters made spaces."""
    return "".join(LATEX_SPECIAL.get(letter, letter) for letter in printable(text))


def printable(text: str) -> str:
    """One line without what breaks files and terminals (control characters, lone surrogates) or
    cannot be seen."""
    whole = str(text).encode("utf-8", "replace").decode("utf-8")
    return _ONE_SPACE.sub(" ", whole)


def between(counts: Iterable[int]) -> str:
    """Smallest and largest count as text: `3`, `2–3`, or `0` for none."""
    known = sorted(set(counts)) or [0]
    return str(known[0]) if len(known) == 1 else f"{known[0]}–{known[-1]}"


def columns(sheet: Sheet, width: int) -> str:
    """A sheet as aligned text of at most `width` characters, details under their values.

    Columns that do not fit continue below with the row names repeated.
    """
    names = [printable(sheet.head[0].text), *[printable(row[0].text) for row in sheet.rows]]
    first = min(max(map(len, names), default=0), max(width // 3, 8))
    sizes = [
        max(len(line) for row in [sheet.head, *sheet.rows] for line in _lines(row[index]))
        for index in range(1, len(sheet.head))
    ]
    blocks: list[list[int]] = [[]]
    used = first
    for index, size in enumerate(sizes, start=1):
        if blocks[-1] and used + 2 + size > width:
            blocks.append([])
            used = first
        blocks[-1].append(index)
        used += 2 + size
    lines = []
    for number, block in enumerate(blocks):
        rule = "-" * (first + sum(2 + sizes[index - 1] for index in block))
        lines += [""] * bool(number)
        for row_number, row in enumerate([sheet.head, *sheet.rows]):
            stacks = [_lines(row[index]) for index in block]
            for height in range(max(map(len, stacks))):
                line = (names[row_number][:first] if height == 0 else "").ljust(first)
                for index, stack in zip(block, stacks, strict=True):
                    part = stack[height] if height < len(stack) else ""
                    line += "  " + part.rjust(sizes[index - 1])
                lines.append(line.rstrip())
            lines += [rule] * (row_number == 0)
    return "\n".join(lines)


def write_csv(path: Path, rows: list[dict[str, object]], head: Sequence[str]) -> None:
    """Write rows as CSV with the columns of `head`; numbers keep ten significant digits."""
    table = pd.DataFrame(rows, columns=list(head))
    write_text(path, table.to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def write_table(
    folder: Path,
    name: str,
    sheets: Sequence[Sheet],
    head: Sequence[str],
    rows: list[dict[str, object]],
) -> None:
    """Write one table in its four formats."""
    write_csv(folder / f"{name}.csv", rows, head)
    write_text(folder / f"{name}.md", markdown(sheets))
    write_text(folder / f"{name}.tex", latex(sheets))
    write_text(folder / f"{name}.html", html(sheets))


def _lines(value: Value) -> list[str]:
    stack = value.stack or ((value.detail,) if value.detail else ())
    return [printable(line) for line in (value.text, *stack)]


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", printable(text)).replace("&", "&amp;")


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _html(text: str) -> str:
    return escape(printable(text))


def _html_value(value: Value) -> str:
    text = f"<strong>{_html(value.text)}</strong>" if value.highest else _html(value.text)
    return f"{text} <small>{_html(value.detail)}</small>" if value.detail else text


def _latex_columns(sheet: Sheet) -> str:
    if sheet.prose:
        return rf"p{{{0.9 / len(sheet.head):.2f}\linewidth}}" * len(sheet.head)
    return "l" + "r" * (len(sheet.head) - 1)


def _latex_groups(sheet: Sheet) -> list[str]:
    """The line of group names and the rules under them."""
    if not sheet.groups:
        return []
    names, rules, column = [], [], 1
    for name, size in sheet.groups:
        names.append(rf"\multicolumn{{{size}}}{{c}}{{{latex_text(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{column}-{column + size - 1}}}")
        column += size
    return [" & ".join(names) + r" \\", " ".join(rules)]


def _latex_value(value: Value) -> str:
    text = latex_text(value.text)
    text = rf"\textbf{{{text}}}" if value.highest else text
    detail = rf" {{\scriptsize {latex_text(value.detail)}}}" if value.detail else ""
    return text + detail
