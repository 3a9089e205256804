"""The project's own virtual environment, `.venv`: made on the first use, kept afterwards.

Runs under any Python 3, with the standard library only, because it looks for the Python that the project needs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
VERSIONS = ((3, 12), (3, 11), (3, 10))
# pinned, so that everybody who runs the scripts computes with the same build
TORCH = "torch==2.13.0"


def enter(extra: str) -> None:
    """Go on inside `.venv` with the extra of pyproject.toml installed; the calling script is started anew in there."""
    stamp = VENV / f".tomoseg-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + TORCH.encode()).hexdigest()
    if not _works(PYTHON) or not stamp.is_file() or stamp.read_text() != wanted:
        _install(extra)
        stamp.write_text(wanted)
    if Path(sys.prefix).resolve() != VENV.resolve():
        arguments = [str(PYTHON), *sys.argv]
        if os.name == "nt":  # exec returns to the shell at once there
            sys.exit(subprocess.call(arguments))
        os.execv(PYTHON, arguments)


def separate(name: str, *packages: str) -> Path:
    """Return the Python of an environment of its own, `.venv-NAME`, for packages that would disturb the project's."""
    folder = ROOT / f".venv-{name}"
    python = folder / PYTHON.relative_to(VENV)
    stamp = folder / ".tomoseg"
    wanted = " ".join((TORCH, *packages))
    if any(package.startswith(str(ROOT)) for package in packages):
        wanted += f" of {hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()[:8]}"
    if not _works(python) or not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Making {folder} with {wanted} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([_find_python(), "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TORCH, *packages])
        stamp.write_text(wanted)
    return python


def _install(extra: str) -> None:
    if not _works(PYTHON):
        print(f"Making a virtual environment in {VENV} …", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        _run([_find_python(), "-m", "venv", str(VENV)])
    print(f"Installing tomoseg[{extra}] and what it needs; the first time takes a minute or more …", flush=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, TORCH, "--editable", f"{ROOT}[{extra}]"])


def _find_python() -> str:
    names = [sys.executable, *(f"python{major}.{minor}" for major, minor in VERSIONS), "python3", "python"]
    for name in names:
        found = shutil.which(name)
        if found and _works(Path(found)):
            return found
    sys.exit("error: expected Python 3.10, 3.11 or 3.12 with its venv module, found none; install one of them first")


def _works(python: Path) -> bool:
    """Tell whether a Python starts, is of a supported version, and can make virtual environments."""
    code = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in {VERSIONS})"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: "list[str]") -> None:
    if subprocess.call(command) != 0:
        sys.exit(f"error: this command failed: {' '.join(command)}")
