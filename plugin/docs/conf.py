"""Sphinx configuration: build with `scripts/docs`."""

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))
if packages := os.environ.get("TOMOSEG_PACKAGES"):  # of `.venv`: the program that the reference describes
    sys.path.append(packages)

import typer  # noqa: E402

import tomoseg  # noqa: E402
from tomoseg.cli import app  # noqa: E402

project = "tomoseg"
project_copyright = "The tomoseg developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
add_module_names = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_generated"]
html_theme = "furo"
html_title = "tomoseg"
html_show_sphinx = False
# external links are checked by `scripts/docs --external` only
linkcheck_ignore = [r"http://127\.0\.0\.1.*"]


def describe_commands() -> str:
    """Return the help of every command, as the program prints it."""
    os.environ["COLUMNS"] = "100"
    group: Any = typer.main.get_command(app)
    root = group.context_class(group, info_name="tomoseg")
    parts = []
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        text = command.get_help(command.context_class(command, info_name=name, parent=root, max_content_width=100))
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def describe_schemas() -> str:
    """Return a table of the properties of each JSON schema."""
    parts = []
    for path in sorted((DOCS.parent / "tomoseg" / "report" / "schemas").glob("*.json")):
        schema = json.loads(path.read_text("utf-8"))
        parts += [f"## {schema['title']}\n", schema.get("description", ""), "\n| property | type | description |"]
        parts.append("|---|---|---|")
        for name, value in schema.get("properties", {}).items():
            kind = value.get("type", "")
            kind = " or ".join(kind) if isinstance(kind, list) else kind
            parts.append(f"| `{name}` | {kind} | {value.get('description', '').replace('|', ',')} |")
        parts.append("")
    return "\n".join(parts)


def describe_python() -> str:
    """Return a directive for each public name, which Sphinx fills from the docstring."""
    parts = []
    for name in sorted(tomoseg.__all__):
        value = getattr(tomoseg, name)
        if inspect.isclass(value) or callable(value):
            kind = "class" if inspect.isclass(value) else "function"
            members = "   :members:\n" if kind == "class" else ""
            home = f"{value.__module__}.{value.__qualname__}"
            parts.append(f"## {name}\n\n```{{eval-rst}}\n.. auto{kind}:: {home}\n{members}```\n")
    return "\n".join(parts)


def write_pages() -> None:
    """Write the pages that are generated from the program."""
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "command_line.md").write_text(describe_commands(), "utf-8")
    (folder / "python.md").write_text(describe_python(), "utf-8")
    (folder / "schemas.md").write_text(describe_schemas(), "utf-8")


write_pages()
