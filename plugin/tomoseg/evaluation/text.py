"""Numbers as people read them."""

from __future__ import annotations

import math

from tomoseg.evaluation.summary import Estimate, LabelSummary

UNDEFINED_TEXT = "–"


def show_number(value: float, decimals: int) -> str:
    """Return a number; a dash where it is not defined."""
    if math.isnan(value):
        return UNDEFINED_TEXT
    if math.isinf(value):
        return "∞"
    text = f"{value:.{decimals}f}"
    return text if float(text) else text.removeprefix("-")


def show_estimate(estimate: Estimate, decimals: int) -> str:
    """Return a number with its interval, e.g. "0.896 [0.885, 0.906]"."""
    if math.isnan(estimate.low):
        return show_number(estimate.value, decimals)
    return f"{show_number(estimate.value, decimals)} {show_interval(estimate, decimals)}"


def show_interval(estimate: Estimate, decimals: int) -> str:
    """Return the interval alone, e.g. "[0.885, 0.906]"; nothing where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"[{show_number(estimate.low, decimals)}, {show_number(estimate.high, decimals)}]"


def show_tolerance(summary: LabelSummary) -> str:
    """Return the tolerance of a label where it is not the usual one, as a suffix."""
    return "" if summary.tolerance_mm in (None, 1.0) else f" (NSD at {summary.tolerance_mm:g} mm)"
