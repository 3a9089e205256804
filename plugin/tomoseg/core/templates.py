"""Render text from templates: pages, configs and model cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tomoseg.core.errors import shorten

if TYPE_CHECKING:
    from jinja2 import Environment

MARKDOWN = re.compile(r"([\\`*<>\[\]|!#&])")
MAX_TEXT_LENGTH = 2000


def make_environment(*folders: Path) -> Environment:
    """Return the environment that renders the templates of some folders.

    Args:
        folders: of the templates; the first one that has a name provides it.

    Returns:
        It escapes every value for HTML, except in `*.jinja`: JSON and Markdown, whose templates quote for themselves,
        Markdown with the filter `markdown`.
        A name without a value is an error.
    """
    # 40 ms, which only those pay who render something
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=select_autoescape((), ("jinja",), default_for_string=True, default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = escape_markdown
    return environment


def escape_markdown(text: object) -> str:
    """Return Markdown that shows a text literally in one line: no HTML, link, picture, heading or cell."""
    return MARKDOWN.sub(r"\\\1", shorten(str(text), MAX_TEXT_LENGTH))
