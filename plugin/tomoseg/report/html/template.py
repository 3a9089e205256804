"""Write pages as single HTML files, from jinja2 templates that escape every value."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tomoseg.core.files import UNENCODABLE, atomic_file
from tomoseg.core.templates import make_environment
from tomoseg.report.text import count_noun, show_duration, show_number

if TYPE_CHECKING:
    from jinja2 import Environment


def write_html(path: Path, folder: Path, template: str, **values: Any) -> None:
    """Write a page as a single HTML file, atomically; it asks the network for nothing.

    Args:
        path: of the page.
        folder: of the template.
        template: extends `page.html`.
        values: by their names in the template.

    Raises:
        OutputError: it cannot be written.
    """
    content = page_environment(folder).get_template(template).render(values)
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors=UNENCODABLE)


@cache  # a compiled template saves a watched inbox 100 ms a report
def page_environment(folder: Path) -> Environment:
    """Return the environment of a folder's pages, which share the templates here.

    Args:
        folder: of the templates.
    """
    environment = make_environment(folder, Path(__file__).parent)
    environment.tests |= {"nan": math.isnan, "infinite": math.isinf}
    environment.filters |= {
        "number": show_number,
        "counted": count_noun,
        "duration": show_duration,
        "px": "{:.1f}".format,
        "link": _link,
        "css": _escape_css,
        "fingerprint": _fingerprint,
    }
    return environment


def _link(target: str, home: Path) -> str:
    """Return the address of a file relative to the folder of the page."""
    place = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links
    try:
        relative = Path(os.path.relpath(place, home)).as_posix()
    except ValueError:  # another drive
        return place.as_uri()
    # without the quoting, a browser reads a name with a colon as a scheme, such as javascript:
    return quote(os.fsencode(relative))


def _escape_css(text: str) -> str:
    """Return a text for a string in CSS, where entities of HTML mean nothing."""
    return "".join(char if char.isalnum() and char.isascii() else f"\\{ord(char):x} " for char in text)


def _fingerprint(text: str) -> str:
    """Return the source that a Content-Security-Policy names for an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
