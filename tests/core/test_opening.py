"""Only `core.files` opens files: no pipe, device or link to one is waited for or read from."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import tomoseg
from tomoseg.core.files import open_regular, read_text, require_regular, sha256

PACKAGE = Path(tomoseg.__file__).parent
CHECKED = {"open_regular", "require_regular"}
# what opens a path that it is given; `open` stands for `Path.open` and for the function of every module
OPENERS = {
    "open", "read_text", "read_bytes", "load", "load_image", "from_filename", "dcmread", "read_file", "segread",
    "ReadImage", "SetFileName", "fromfile", "memmap", "loadtxt", "genfromtxt", "imread", "load_config_file",
    "load_config_files", "read_config", "ZipFile", "TarFile", "GzipFile",
}  # fmt: skip
LOADERS = {"nib", "np", "torch", "torch.jit", "onnx", "itk"}  # whose `load` takes a path


def test_nothing_opens_a_path_that_was_not_checked() -> None:
    unchecked: list[str] = []
    for path in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "core" / "files.py"}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        unchecked += [f"{path}:{call.lineno}: {ast.unparse(call)}" for call in calls(tree) if opens(call, tree)]
    assert unchecked == []


@pytest.mark.parametrize("opening", [
    "open(path)", "path.open()", "path.open('rb')", "path.read_text()", "Path(a).read_bytes()", "gzip.open(path)",
    "nib.load(path)", "dcmread(str(path))", "sitk.ReadImage(path)", "reader.SetFileName(str(path))",
    "np.load(path)", "torch.load(path)", "Image.open(path)", "os.open(path, os.O_RDONLY)",
])  # fmt: skip
def test_the_test_sees_an_opening(opening: str) -> None:
    tree = ast.parse(opening)
    assert any(opens(call, tree) for call in calls(tree))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def opens(call: ast.Call, tree: ast.Module) -> bool:
    """Return whether a call reads a path that did not go through `core.files`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    writes = any(isinstance(one, ast.Constant) and one.value in ("w", "wb", "x", "xb", "ab", "rb+") for one in given)
    # a member of an archive that is open, and a file that is made
    if owner == "archive" or "os.O_CREAT" in ast.unparse(call):
        return False
    if name not in OPENERS or (name == "load" and owner not in LOADERS) or owner.startswith("files(") or writes:
        return False
    if name in ("read_text", "read_file") and not owner:  # `core.files.read_text`
        return name == "read_file"
    if name in ("open", "read_text", "read_bytes") and owner and not call.args:
        return True
    return not any(is_checked(one, tree) for one in given[:1])


def is_checked(argument: ast.expr, tree: ast.Module) -> bool:
    """Return whether an argument is a checked path or an open file: a call, or a name that was bound to one."""
    inner = [one for one in ast.walk(argument) if isinstance(one, ast.Call)]
    if any(isinstance(one.func, ast.Name) and one.func.id in CHECKED for one in inner):
        return True
    bound: set[str] = set()
    source: ast.expr | None
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            source, target = node.context_expr, node.optional_vars.id
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            source, target = node.value, ast.unparse(targets[0])
        else:
            continue
        if source is not None and any(f"{name}(" in ast.unparse(source) for name in CHECKED):
            bound.add(target)
    return isinstance(argument, ast.Name) and argument.id in bound


@pytest.mark.parametrize("reader", [open_regular, require_regular, read_text, sha256])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder", "socket"])
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path: Path, reader: object, kind: str) -> None:
    path = tmp_path / "scan.nii"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(OSError, match=r"regular file|directory|No such device"):
        reader(path)  # type: ignore[operator]
