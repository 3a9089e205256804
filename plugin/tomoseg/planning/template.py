"""Render the files of a planned bundle from templates."""

import json
from pathlib import Path
from typing import Any

from tomoseg.bundle.configs import Json
from tomoseg.core.templates import make_environment

ENVIRONMENT = make_environment(Path(__file__).parent / "templates")
ENVIRONMENT.filters |= {"json": json.dumps, "inner": lambda value: json.dumps(value)[1:-1]}


def render(name: str, /, **values: Any) -> str:
    """Return the text of a file.

    Args:
        name: of its template.
        values: by their names in the template.
    """
    return ENVIRONMENT.get_template(name).render(values)


def render_config(name: str, /, **values: Any) -> Json:
    """Return a config.

    Args:
        name: of the config; its template is `templates/NAME.json.jinja`.
        values: by their names in the template, where the filter `json` writes a value as JSON, and `inner` the same
            without its brackets.
    """
    config: Json = json.loads(render(f"{name}.json.jinja", **values))
    return config
