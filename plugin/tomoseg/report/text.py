"""Numbers, durations and dates as people read them."""

import math
from datetime import datetime

NOTHING = "–"


def show_number(value: float, decimals: int) -> str:
    """Return a number; a dash where it is not defined."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞"
    text = f"{value:.{decimals}f}"
    return text if float(text) else text.removeprefix("-")


def count_noun(number: int, noun: str) -> str:
    """Return a number with its noun, e.g. "1 scan" or "2 scans"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def show_duration(seconds: float) -> str:
    """Return a duration as people say it, e.g. "39 min 45 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def show_moment(moment: datetime) -> str:
    """Return a date with its time, e.g. "20 November 2026, 11:03"."""
    return f"{moment.day} {moment:%B %Y, %H:%M}"
