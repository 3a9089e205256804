"""Render the files of a planned bundle from templates."""

import json
import re
from pathlib import Path
from typing import Any

from tomoseg.bundle.configs import Json, component
from tomoseg.core.templates import make_environment

ENVIRONMENT = make_environment(Path(__file__).parent / "templates")
ENVIRONMENT.filters |= {
    "json": json.dumps,
    "inner": lambda value: json.dumps(value)[1:-1],
    "one_or_all": lambda values: values if len(values) > 1 else values[0],
}
ENVIRONMENT.globals["step"] = lambda target, **arguments: json.dumps(component(target, **arguments))
TEXT_OR_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[]}])')


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
        values: by their names in the template, where `step` writes the entry of a transform, the filter `json` a value
            as JSON, and `inner` the same without its brackets. A comma after a last entry counts for nothing.
    """
    text = TEXT_OR_LAST_COMMA.sub(lambda found: found[1] or "", render(f"{name}.json.jinja", **values))
    config: Json = json.loads(text)
    return config
