"""Render the configs of a planned bundle: each is a template of its JSON, with places for what was decided."""

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tomoseg.bundle.configs import Json

ENVIRONMENT = Environment(
    loader=PackageLoader("tomoseg.planning"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters |= {"json": json.dumps, "inner": lambda value: json.dumps(value)[1:-1]}


def render_config(name: str, /, **values: Any) -> Json:
    """Return a config.

    Args:
        name: of the config; its template is `templates/NAME.json.jinja`.
        values: by their names in the template, where the filter `json` writes a value as JSON, and `inner` the same
            without its brackets.
    """
    config: Json = json.loads(ENVIRONMENT.get_template(f"{name}.json.jinja").render(values))
    return config
