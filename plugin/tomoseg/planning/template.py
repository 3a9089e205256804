"""Render the files of a bundle from templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoseg.bundle.configs import Json, component
from tomoseg.core.templates import make_environment

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
TEXT_OR_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[]}])')


@cache
def _environment(folder: Path) -> Environment:
    environment = make_environment(folder, TEMPLATES)
    environment.filters |= {
        "json": json.dumps,
        "inner": lambda value: json.dumps(value)[1:-1],
        "one_or_all": lambda values: values if len(values) > 1 else values[0],
    }
    environment.globals["step"] = lambda target, **arguments: json.dumps(component(target, **arguments))
    return environment


def render(name: str, /, folder: Path = TEMPLATES, **values: Any) -> str:
    """Return the text of a file.

    Args:
        name: of its template.
        folder: of the template.
        values: by their names in the template.
    """
    return _environment(folder).get_template(name).render(values)


def render_macros(name: str, macros: Iterable[str], /, **values: Any) -> dict[str, str]:
    """Return the texts of some macros of a template without arguments, each in one line, by their names.

    Args:
        name: of the template.
        macros: their names.
        values: by their names in the template.
    """
    module = _environment(TEMPLATES).get_template(name).make_module(values)
    return {macro: " ".join(str(getattr(module, macro)()).split()) for macro in macros}


def render_config(name: str, /, folder: Path = TEMPLATES, **values: Any) -> Json:
    """Return a config.

    Args:
        name: of the config; its template is `NAME.json.jinja`.
        folder: of the template.
        values: by their names in the template, where `step` writes the entry of a transform, the filter `json` a value
            as JSON, and `inner` the same without its brackets. A comma after a last entry counts for nothing.
    """
    text = TEXT_OR_LAST_COMMA.sub(lambda found: found[1] or "", render(f"{name}.json.jinja", folder, **values))
    config: Json = json.loads(text)
    return config
