"""The status of a watched archive: for programs, and as a page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tomoseg.batch.archive.queue import Queue
from tomoseg.core.version import __version__
from tomoseg.report.environment import utc_now
from tomoseg.report.html.template import write_html

MAX_SHOWN = 300  # series
SHOWN = ("uid", "study", "images", "bundle", "attempts", "reason")
STEPS = {
    "ignored": "no rule fits", "arriving": "still arriving, or next", "fetched": "fetched", "segmented": "segmented",
    "stored": "results stored", "waiting": "tried again later", "failed": "failed",
}  # fmt: skip


def describe_status(queue: Queue) -> dict[str, Any]:
    """Return the number of series of each step, and those that failed or wait, as `archive_status.schema.json` says."""
    rows = map(asdict, queue.troubled(MAX_SHOWN))
    series = [{"step": "failed" if row["failed"] else "waiting", **{key: row[key] for key in SHOWN}} for row in rows]
    counts: Mapping[str, int] = queue.counts()
    return {"counts": {step: counts.get(step, 0) for step in STEPS}, "series": series}


def save_status(state: Path, url: str, queue: Queue) -> None:
    """Write status.html.

    Raises:
        OutputError: it cannot be written.
    """
    pages = sorted(path.parent.name for path in state.glob("*/report.html"))
    values = describe_status(queue) | {"url": url, "steps": STEPS, "when": utc_now(), "pages": pages}
    write_html(state / "status.html", Path(__file__).parent, "status.html", details={"tomoseg": __version__}, **values)
