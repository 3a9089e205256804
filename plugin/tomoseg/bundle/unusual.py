"""What a static reading of a bundle finds that MONAI's own bundles rarely need. It informs, and runs nothing.

A bundle is code: "nothing unusual" does not mean that it is harmless, because code can evade a list of allowed parts.
"""

import ast
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from tomoseg.bundle.trust import CODE_SUFFIXES, code_files
from tomoseg.core.errors import one_line
from tomoseg.core.files import read_text

USUAL_PACKAGES = ("glob", "ignite", "monai", "numpy", "torch", "tomoseg")
# "modules" and "calls": names which one cannot see the end of (`import os` for its paths is usual)
NAMES = json.loads(files(__package__).joinpath("unusual.json").read_text(encoding="utf-8"))
MODULES, CALLS = {*NAMES["modules"]}, {*NAMES["calls"]}
KINDS = dict.fromkeys(CODE_SUFFIXES, "compiled code") | NAMES["kinds"]
RUNS = {"run", "run_workflow"}  # as targets; an expression that begins a bundle's evaluator is usual
MAX_BYTES = 10_000_000
USUAL = "$setattr(torch.backends.cudnn, 'benchmark', True)"  # in most bundles of the zoo


def find_unusual(root: Path) -> list[str]:
    """Return one line for each unusual thing in the configs, scripts and compiled files of a bundle.

    Args:
        root: the bundle's folder.

    Returns:
        The lines, sorted; none where nothing is unusual.
    """
    found = []
    for path in code_files(root):
        name = path.relative_to(root)
        kind = KINDS.get(path.suffix.lower(), "")
        lines = [kind] if kind else []
        found += [f"{name}: {line}" for line in lines or (_read(path) if "configs" in name.parts[:-1] else [])]
    # a config's text may hold codes that move a terminal's cursor
    return sorted({"".join(c if c.isprintable() else "?" for c in line) for line in found})


def _read(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return [f"larger than {MAX_BYTES // 1_000_000} MB, not read"]
        text = read_text(path)
        if path.suffix == ".conf":
            return [f"evaluates {one_line(line)}" for line in re.findall(r"^\s*args\s*[=:](.*)", text, re.MULTILINE)
                    if line.strip() not in ("(sys.stdout,)", "(sys.stderr,)", "()")]  # fmt: skip
        return [] if path.suffix not in (".json", ".yaml", ".yml") else list(_walk(_parse(path, text), "", set()))
    except (ImportError, OSError, RecursionError, ValueError) as error:
        return [f"cannot be read: {one_line(error)}"]


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        return json.loads(text)
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error


def _walk(value: Any, key: str, seen: set[tuple[int, str]]) -> Iterator[str]:
    """Judge each text in an entry; what YAML's aliases repeat, or put into itself, is read once."""
    if isinstance(value, str):
        yield from _judge(value, key)
    elif isinstance(value, dict | list) and (id(value), key) not in seen:
        seen.add((id(value), key))
        entries = value.items() if isinstance(value, dict) else ((key, entry) for entry in value)
        for name, entry in entries:
            yield from _walk(entry, str(name), seen)


def _judge(text: str, key: str) -> Iterator[str]:
    shown = text if len(text) <= 100 else text[:100] + " …"
    if text.startswith("$") and text != USUAL:
        if what := _judge_expression(text[1:]):
            yield f"expression {what}: {shown}"
    elif key == "_target_" and _is_foreign(text):
        yield f"runs {shown}"
    elif key == "reader" and "." in text:
        yield f"reads images with {shown}"
    elif text.startswith("%") and re.search(r"\.(json|ya?ml)\b", text):
        yield f"takes in {shown}"


def _is_foreign(target: str) -> bool:
    parts = target.split(".")
    return (
        (len(parts) > 1 and parts[0] not in USUAL_PACKAGES)
        or not all(part.isidentifier() and not part.startswith("_") for part in parts)
        or bool(set(parts) & (MODULES | CALLS | RUNS))
    )


def _judge_expression(code: str) -> str:
    """Return the unusual part of an expression of a config, "" for none."""
    # references are MONAI's own syntax; import statements are allowed in `imports`
    code = re.sub(r"@([\w:#]+)", lambda match: "ref_" + re.sub(r"\W", "_", match[1]), code).strip()
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "that cannot be read"
    return ", ".join(dict.fromkeys(reason for node in nodes if (reason := _judge_node(node, nodes))))


def _judge_node(node: ast.AST, nodes: list[ast.AST]) -> str:
    if isinstance(node, ast.ImportFrom):
        return f"imports {node.module}" if _is_unusual_module(node.module or ".") else ""
    if isinstance(node, ast.Import):
        foreign = [one.name for one in node.names if one.name != "os" and _is_unusual_module(one.name)]
        return f"imports {', '.join(foreign)}" if foreign else ""
    if isinstance(node, ast.Constant):
        return "uses private names of Python" if isinstance(node.value, str) and "__" in node.value else ""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    if "__" in name:
        return f"reaches for {name}"
    return f"uses {name}" if name in CALLS or (name in MODULES and not _only_lists(name, node, nodes)) else ""


def _is_unusual_module(name: str) -> bool:
    return name.partition(".")[0] not in USUAL_PACKAGES or _is_foreign(name)


def _only_lists(name: str, node: ast.AST, nodes: list[ast.AST]) -> bool:
    """Return whether a node is the `os` of an `os.path` or `os.listdir`."""
    parents = [one.attr for one in nodes if isinstance(one, ast.Attribute) and one.value is node]
    return name == "os" and isinstance(node, ast.Name) and len(parents) == 1 and parents[0] in ("path", "listdir")
