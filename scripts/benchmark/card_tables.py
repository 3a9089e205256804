"""Tables in model cards that scripts write."""

from __future__ import annotations

import sys
from pathlib import Path


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
