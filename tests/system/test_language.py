"""Plain English: a search finds the phrases that readers stumble over (see `Contributing`, Language)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

# each with a better one
PHRASES = {
    r"told|tells?|telling": "report, print, say",
    r"nobody|somebody|anybody|no one|whoever": "the user, a person, or the passive",
    r"whatever|whichever|come what may|all the same": "any, always, still",
    r"anew|lest|for want of|thereby|therein|whereof|hence": "again, so that ... not, without, so",
    r"(?:is|are|was) taken (?:for|as)": "counts as, is read as",
    r"as it is|as they are": "unchanged, without changes",
    r"in there|of which|of whom": "there, whose, a sentence of its own",
    r"are done with|is done with|are done(?=[,;.])": "are finished, succeed",
    r"what (?:is|was|are|were|it|they)": "a noun",
    r"may as well|besides(?=[,;.])": "can, too",
    r"passed over|mend(?:ed)?": "skipped, correct",
}
FORBIDDEN = re.compile(rf"\b(?:{'|'.join(PHRASES)})(?![a-z])", re.IGNORECASE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TEXTS = (".md", ".jinja", ".html", ".toml")
REVISED = ("README.md", "CHANGELOG.md", "monai_bundle", "plugin", "scripts", "tests")


def prose(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the text for readers with its first line: all of a document, and of code comments and strings.

    Of tests, only comments and docstrings: their other strings are data, and these phrases among them.
    """
    in_tests = path.parts[0] == "tests"
    if path.suffix in TEXTS:
        yield 1, re.sub(r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), text, flags=re.M | re.S)
    elif path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, DOCUMENTED) and in_tests and (docstring := ast.get_docstring(node)):
                yield getattr(node, "lineno", 0) + 1, docstring
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not in_tests:
                yield node.lineno, node.value
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The scan is told as failed.", True),
        ("Nothing is done anew", True),
        ("of what is left", True),
        ("what it was made from", True),
        ("A scan\nthat nobody\nsees", True),
        ("The reader rejects the scan.", False),
        ("hotels, retold stories and hencefort", False),
    ],
)
def test_the_search_finds_phrases(text: str, found: bool) -> None:
    assert bool(FORBIDDEN.search(text)) == found


def test_revised_texts_have_none_of_the_phrases(checkout: Path, project_files: list[Path]) -> None:
    found = []
    for path in project_files:
        if path.as_posix().startswith(REVISED) and path.suffix in (*TEXTS, ".py"):
            for line, text in prose(path, (checkout / path).read_text("utf-8")):
                for hit in FORBIDDEN.finditer(text):
                    found.append(f"{path}:{line + text[: hit.start()].count(chr(10))}: {hit.group()}")
    assert found == []


def test_each_change_is_one_line_that_begins_with_a_verb(checkout: Path) -> None:
    lines = (checkout / "CHANGELOG.md").read_text("utf-8").partition("## [Unreleased]")[2].splitlines()
    assert [line for line in lines if line and not re.match(r"- [A-Z][a-z-]+ |#{2,3} ", line)] == []
    assert [line for line in lines if line.startswith("- ") and not line.endswith(".")] == []
