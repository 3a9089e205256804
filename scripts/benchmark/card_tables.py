"""Tables in model cards that scripts write."""

from __future__ import annotations

import sys
from pathlib import Path

from tomoseg.core.notes import print_line


def publish_table(bundle: Path, name: str, script: str, lines: list[str]) -> None:
    """Print the lines of a table, and put it into the card of the bundle in a folder; otherwise as `replace_table`."""
    for line in lines:
        print_line(line)
    replace_table(bundle / "docs" / "README.md", name, script, "\n".join(lines) + "\n")


def replace_table(card: Path, name: str, script: str, table: str) -> None:
    """Replace what stands between the two comments of a card that begin `<!-- NAME` and `<!-- end of NAME`.

    Args:
        card: changed in place.
        name: of the table, such as "accuracy".
        script: in `scripts/benchmark` that writes it.
        table: in Markdown.
    """
    opening, closing = f"<!-- {name}: written by scripts/benchmark/{script} -->\n", f"<!-- end of {name} -->"
    before, begin, rest = card.read_text("utf-8").partition(opening)
    _, end, after = rest.partition(closing)
    if not (begin and end):
        sys.exit(f"error: {card}: has no place for the table. Add the lines `{opening.strip()}` and `{closing}`")
    card.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")
