"""The project's virtual environments, made on the first use and kept: `.venv`, and `.venv-label` for MONAI Label.

Each has the pinned torch, the versions of a lock (`scripts/lock` writes both), and the checkout. A third, with nnU-Net
to compare with, has neither lock nor checkout.
This module runs under any Python 3, with the standard library only, because it looks for the Python that fits.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOCK = ROOT / "scripts" / "constraints.txt"
LOCK_LABEL = ROOT / "scripts" / "constraints-label.txt"
NAMES = ("python3.11", "python3.12", "python3.13", sys.executable, "python3", "python")
OLDEST, ANY, BELOW_LABEL = (3, 11), (4,), (3, 13)  # MONAI Label 0.8.5 needs numpy 1, which has no wheels for 3.13
# pinned, so that all who run the scripts compute with the same build; in no lock, since the build for CPUs differs
TORCH = "torch==2.13.0"
PIP = "pip>=25.1"  # the first that knows --group


def enter() -> None:
    """Continue inside `.venv`: make it where needed, and restart the calling script in it."""
    python = _with_lock(VENV, LOCK, ANY)
    if Path(sys.prefix).resolve() != VENV.resolve():
        arguments = [str(python), *sys.argv]
        if os.name == "nt":  # exec returns to the shell at once there
            sys.exit(subprocess.call(arguments))
        os.execv(python, arguments)


def label() -> Path:
    """Return the Python of `.venv-label`, which has MONAI Label and the older versions that it needs."""
    return _with_lock(ROOT / ".venv-label", LOCK_LABEL, BELOW_LABEL)


def nnunet() -> Path:
    """Return the Python of `.venv-nnunet`, which has nnU-Net, MONAI for the benchmark, and not the checkout."""
    # torch again, or a package that it needs would exchange it for the newest torch
    packages = ["nnunetv2==2.8.1", "monai[nibabel]>=1.6.1", TORCH]
    return make(ROOT / ".venv-nnunet", " ".join(packages), ANY, [TORCH], packages)


def make(folder: Path, wanted: str, below: "tuple[int, ...]", *steps: "list[str]") -> Path:
    """Make a virtual environment where there is none as wanted, and return its Python.

    Args:
        folder: of the environment.
        wanted: a text that changes with the packages to install.
        below: version of Python, excluded.
        steps: arguments of `pip install`, one call after the other.
    """
    python = folder / PYTHON
    stamp = folder / ".tomoseg"
    wanted = hashlib.sha256(f"{TORCH} {wanted}".encode()).hexdigest()
    works = _works(str(python), below)
    if works and stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"Making the virtual environment {folder.name}; the first time takes some minutes …", flush=True)
    if not works:
        shutil.rmtree(folder, ignore_errors=True)
        _run([_find_python(below), "-m", "venv", str(folder)])
    for step in (["--upgrade", PIP], *steps):
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step])
    stamp.write_text(wanted)
    return python


def _with_lock(folder: Path, lock: Path, below: "tuple[int, ...]") -> Path:
    locked = ["--no-deps", "--require-hashes", "--requirement", str(lock)]
    checkout = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    wanted = (ROOT / "pyproject.toml").read_text("utf-8") + lock.read_text("utf-8")
    return make(folder, wanted, below, [TORCH], locked, checkout)


def _find_python(below: "tuple[int, ...]") -> str:
    for name in NAMES:
        found = shutil.which(name)
        if found and _works(found, below):
            return found
    newest = "" if below == ANY else f" and below {'.'.join(map(str, below))}"
    sys.exit(f"error: expected Python 3.11 or newer{newest} with its venv module; found none. Install it first")


def _works(python: str, below: "tuple[int, ...]") -> bool:
    """Return whether a Python starts, has a suitable version, and can make virtual environments."""
    code = f"import sys, venv, ensurepip; sys.exit(not {OLDEST} <= sys.version_info < {below})"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: "list[str]") -> None:
    if subprocess.call(command) != 0:
        sys.exit(f"error: this command failed: {' '.join(command)}")
