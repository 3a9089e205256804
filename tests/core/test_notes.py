"""Shown texts steer no terminal and no spreadsheet."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections import Counter
from pathlib import Path

import pytest

import tomoseg
from tomoseg.cli.terminal import print_table
from tomoseg.core.notes import print_error, print_json, print_line, print_note, print_warning
from tomoseg.core.tables import write_csv

HOSTILE = {
    "escape": "\x1b[2J\x1b]0;title\x07", "C1": "\x9b31m\x85", "bidirectional": "\u202egnp.exe\u2066", "newline": "\r\n",
    "separators": "\u2028\u2029\u00a0", "backspace": "\b\b\b", "invisible": "\u200b\ufeff\u00ad",
    "bytes": "\udcff\udc80", "tags": "\U000e0041", "nothing": "\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_steers_a_terminal_is_printed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE[kind]
    for show in (print_line, print_note, print_warning, print_error):
        show(f"scan{text}.nii")
    print_table(text, ("name",), [(text,)])
    print_json(json.dumps({text: text}, indent=2, ensure_ascii=False) + "\n")
    shown = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in shown.out + shown.err)
    assert len(shown.err.splitlines()) == 3
    assert shown.out.startswith("scan\\")
    found = shown.out[shown.out.index("{") :]
    assert json.loads(found) == {text: text}


def test_text_in_any_language_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("Schädel 頭 голова 🧠 (1×1×2 mm) \\n")
    assert capsys.readouterr().out == "Schädel 頭 голова 🧠 (1×1×2 mm) \\n\n"


def test_nothing_else_prints() -> None:
    package = Path(tomoseg.__file__).parent
    prints: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        prints[str(path.relative_to(package))] += names.count("print")
    assert +prints == {"core/notes.py": 3, "cli/__init__.py": 2, "cli/trust.py": 1, "data/itk_image.py": 1}


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    formulas = [
        "=1+1",
        "+cmd",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1+1",
        "\uff0b1+1",
        "-a",
        "=",
        "+",
    ]
    numbers: list[object] = ["-3.5", "+2", "-1e-9", "-inf", -4, -0.5, math.inf, "", None, "a=b", "'=1", "1-2"]
    write_csv(tmp_path / "table.csv", ("=name", "number"), zip(formulas, numbers, strict=True))
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["'=name", "number"]
    assert [row[0] for row in rows[1:]] == [f"'{text}" for text in formulas]
    assert [row[1] for row in rows[1:]] == ["" if one is None else str(one) for one in numbers]
