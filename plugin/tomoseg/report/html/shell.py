"""The file of a page: one style and one script for all pages, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from string import Template

from tomoseg.core.files import UNENCODABLE, atomic_file


def write_html(path: Path, template: str, style: str = "", **parts: str) -> None:
    """Write a page as a single HTML file, atomically; it asks the network for nothing.

    Args:
        path: of the page.
        template: the HTML, with `$name` where a part goes, and $policy, $style and $script.
        style: CSS that comes after that of all pages.
        parts: HTML, by name.

    Raises:
        OutputError: it cannot be written.
    """
    style, script = read_asset("tomoseg.report.html", "page.css") + style, read_asset("tomoseg.report.html", "page.js")
    content = Template(template).substitute(
        parts,
        policy=(
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
            f"style-src '{_fingerprint(style)}'; script-src '{_fingerprint(script)}'"
        ),
        style=style,
        script=script,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors=UNENCODABLE)


def read_asset(package: str, name: str) -> str:
    """Return a text file that belongs to a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _fingerprint(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
