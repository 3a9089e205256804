"""What the strings of a config may name: MONAI, PyTorch and Python, and nothing of ours."""

from __future__ import annotations

import ast
import builtins
import pydoc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.bundles import read_config


def check_names(bundle: Path, config: str) -> None:
    """Check that every name in a config of a bundle exists, and that none is of another package."""
    base = "train" if config == "semi_supervised" else config.removeprefix("multi_gpu_")
    imports = [item.removeprefix("$import ") for item in read_config(bundle, base)["imports"]]
    assert set(imports) - {"monai", "torch"} <= set(sys.stdlib_module_names)
    for text, is_target in _strings(read_config(bundle, config)):
        if is_target:
            _resolve_target(text)
        elif text.startswith("$") and not text.startswith("$import "):
            _check_expression(text[1:], imports)


def _strings(item: Any, is_target: bool = False) -> Iterator[tuple[str, bool]]:
    """Every string in a config, and whether it names what to instantiate."""
    if isinstance(item, str):
        yield item, is_target
    elif isinstance(item, dict):
        for key, value in item.items():
            yield from _strings(value, key == "_target_")
    elif isinstance(item, list):
        for value in item:
            yield from _strings(value)


def _resolve_target(name: str) -> None:
    from monai.bundle.config_item import ComponentLocator

    if "." in name:
        assert name.split(".")[0] in {"monai", "torch"}, name
        assert pydoc.locate(name) is not None, f"{name} does not exist"
    else:
        assert ComponentLocator().get_component_module_name(name), f"MONAI has no {name}"


def _check_expression(expression: str, imports: list[str]) -> None:
    """Check that an expression names only what the config imports, builtins and its own variables."""
    tree = ast.parse(re.sub(r"@\w+(?:::\w+)*", "_reference", expression).strip(), mode="eval")
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    free = {node.id for node in names} - bound - {"_reference"} - set(dir(builtins))
    assert free <= set(imports), f"{free - set(imports)} in {expression}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if re.fullmatch(r"(monai|torch)(\.\w+)+", name):
                assert pydoc.locate(name) is not None, f"{name} does not exist"
