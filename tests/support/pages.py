"""Invented reports of runs, and their pages in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.browser import Browser
from tomoseg.core.run_stats import RunStats
from tomoseg.report.environment import describe_hardware
from tomoseg.report.html.document import write_page
from tomoseg.report.records import CaseReport, LabelVolume, Report

FOLDER = "/data/study 7"
# names of files that would do something if a page did not escape them, or that break its layout
HOSTILE = (
    "<script>hacked = 1</script>.nii",
    '"><img src=x onerror="hacked = 1">.nii',
    "' onmouseover=hacked=1 x='.nii",
    "javascript:hacked=1.nii",
    "</style></title><svg onload=hacked=1>.nii",
    "</textarea>--><svg onload=hacked=1>.nii",
    "{{ 7 * 7 }}{% raw %}{# $policy ${hacked} #}.nii",
    "&lt;b&gt; &amp;.nii",
    "not UTF-8 \udcff.nii",
    "right \u202e to left.nii",
    f"{'long' * 60}.nii",
)
# how many elements would run something
HANDLERS = "document.querySelectorAll('[onerror], [onmouseover], [onload], [onclick], body > svg, body > img').length"
DAMAGED = "truncated or damaged: the file ends after 5,000 bytes"


def draw_picture(path: Path) -> Path:
    """Write a picture as large as a preview, that compresses as badly as a CT."""
    noise = np.random.default_rng(0).integers(0, 255, (114, 270, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1080, 456)).save(path)
    return path


def done_case(name: str, *volumes: float, edge: bool = False, **others: Any) -> CaseReport:
    labels = tuple(
        LabelVolume(value, f"organ_{value}", round(ml * 1000), ml, touches_border=edge)
        for value, ml in enumerate(volumes, 1)
    )
    stats = RunStats({"reading": 0.5, "network": 2.0})
    others = {"status": "done", "stats": stats, "output": f"out/{name}_seg.nii.gz", **others}
    return CaseReport(input=f"{FOLDER}/{name}", labels=labels, **others)


def failed_case(name: str, reason: str = DAMAGED) -> CaseReport:
    return done_case(name, status="failed", output=None, stats=RunStats(), reason=f"{FOLDER}/{name}: {reason}")


def make_report(*cases: CaseReport, **others: Any) -> Report:
    return Report(
        bundle={"name": "hippocampus_mr_segmentation", "version": "0.1.2", "config_sha256": "ab" * 32},
        device="cpu", backend="openvino", precision="fp32", options={"tta": True, "max_memory": "6GB"},
        hardware=describe_hardware(), started="2026-11-20T11:03:10+00:00", finished="2026-11-20T11:42:55+00:00",
        cases=cases, **others,
    )  # fmt: skip


def mixed_report(picture: Path | None = None) -> Report:
    """Good and bad scans: b10 is too large, and b11 lacks its second organ."""
    preview = None if picture is None else str(picture)
    usual = [
        done_case(f"sub/b{index}.nii.gz", 10 + index % 4, 5 + index % 3 / 10, preview=preview, stats=stats)
        for index, stats in enumerate(RunStats({"network": seconds}) for seconds in range(90, 80, -1))
    ]
    tilted = RunStats({"reading": 0.5, "network": 2.0}, notes=("the gantry is tilted by 12.5°",))
    return make_report(
        *usual[:4],
        failed_case("sub/a.nii.gz"),
        *usual[4:],
        done_case("b10.nii.gz", 99, 5.1, preview=preview),
        done_case("b11.nii.gz", 11.5, 0, preview=preview, stats=tilted),
        done_case("b12.nii.gz", 11.4, 5.1, edge=True, status="skipped", preview=preview),
        failed_case("c.nii.gz"),
        failed_case("d.nii.gz", "expected one 3D volume, got 4D"),
    )


def read_column(browser: Browser, number: int, shown: str = "tbody tr:not([hidden])") -> list[str]:
    """Return the text of one column, row by row."""
    found: list[str] = browser.evaluate(
        f"[...document.querySelectorAll('{shown}')].map(r => r.cells[{number}].innerText)"
    )
    return found


def read_names(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('tbody tr:not([hidden]) th b')].map(name => name.textContent)"
    )
    return found


def open_page(browser: Browser, report: Report, folder: Path, **how: Any) -> Path:
    path = folder / "report.html"
    write_page(report, path)
    browser.open(path, **how)
    return path


# what can be read and has less than 4.5 times the luminance of its background, or the reverse
CONTRASTS = """
(() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words || !element.checkVisibility() || element.tagName === "SCRIPT") continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.outerHTML.slice(0, 90));
  }
  return low;
})()
"""
