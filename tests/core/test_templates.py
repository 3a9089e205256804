"""Markup stands in templates only, and one environment renders them all: no value reaches a page unescaped."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tomoseg.core.templates import make_environment

MARKUP = re.compile(r"(?<!\?P)</?[a-z][a-z0-9]*(\s[^>]*)?/?>|<!doctype|&(#\d+|[a-z]+);", re.IGNORECASE)
# what a template or a script could let through unescaped
BYPASSES = re.compile(r"\|\s*safe\b|autoescape|innerHTML|outerHTML|insertAdjacentHTML|document\.write")
# what makes markup, or an environment that escapes nothing
MAKERS = re.compile(r"^ *(?:from|import) (?:html|jinja2|markupsafe|xml)\b.*", re.MULTILINE)
OWNER = Path("plugin/tomoseg/core/templates.py")


def sources(checkout: Path, project_files: list[Path], *suffixes: str) -> dict[Path, str]:
    found = [path for path in project_files if path.suffix in suffixes and path.parts[0] in ("plugin", "scripts")]
    return {path: (checkout / path).read_text("utf-8") for path in found}


def markup_in(code: str) -> Iterator[str]:
    """Yield the strings with markup, but for those that stand alone: docstrings."""
    tree = ast.parse(code)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # its pieces, with a mark for each value
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            text = node.value
        else:
            continue
        if MARKUP.search(text):
            yield text


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("page = '<p>' + name + '</p>'", True),
        ("page = f'<b class={kind}>{name}</b>'", True),
        ("page = 'a &amp; b'", True),
        ("page = '<!DOCTYPE html>'", True),
        ("note = f'x < {limit} > y, a<b'", False),
        ('"""A docstring with <b>."""', False),
    ],
)
def test_markup_is_found(code: str, expected: bool) -> None:
    assert any(markup_in(code)) == expected


def test_no_code_has_markup(checkout: Path, project_files: list[Path]) -> None:
    code = sources(checkout, project_files, ".py")
    assert len(code) > 150
    assert {path: found for path, text in code.items() if (found := list(markup_in(text)))} == {}


def test_one_module_makes_the_environment(checkout: Path, project_files: list[Path]) -> None:
    code = sources(checkout, project_files, ".py")
    found = {path: lines for path, text in code.items() if (lines := MAKERS.findall(text))}
    assert OWNER in found
    for path in found.keys() - {OWNER}:  # others name the type only
        assert found[path] == ["    from jinja2 import Environment"], path
        assert "\nif TYPE_CHECKING:\n    from jinja2 import Environment\n" in code[path]


def test_no_template_or_script_lets_a_value_through(checkout: Path, project_files: list[Path]) -> None:
    found = sources(checkout, project_files, ".html", ".js", ".css", ".jinja")
    assert len(found) > 15
    assert {path: hits for path, text in found.items() if (hits := BYPASSES.findall(text))} == {}
    for path, text in found.items():  # their values would need another escape than HTML's
        assert path.suffix not in (".js", ".css") or not re.search(r"\{[{%#]", text), path


def test_pages_escape_and_configs_do_not(tmp_path: Path) -> None:
    for name in ("page.html", "style.css", "config.json.jinja"):
        (tmp_path / name).write_text("{{ value }}\n")
    environment = make_environment(tmp_path)
    rendered = {
        name: environment.get_template(name).render(value='<b title="x">') for name in environment.list_templates()
    }
    assert rendered["page.html"] == rendered["style.css"] == "&lt;b title=&#34;x&#34;&gt;\n"
    assert rendered["config.json.jinja"] == '<b title="x">\n'
    assert environment.from_string("{{ value }}").render(value="<b>") == "&lt;b&gt;"


def test_a_name_without_value_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("{{ missing }}")
    with pytest.raises(UndefinedError, match="missing"):
        make_environment(tmp_path).get_template("page.html").render()


def test_the_first_folder_wins(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.html").write_text(name)
    assert make_environment(tmp_path / "first", tmp_path / "second").get_template("page.html").render() == "first"
