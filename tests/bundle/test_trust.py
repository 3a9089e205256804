"""No code of a bundle runs before the user says yes, and the yes holds until the code changes."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.command_line import complaint, run_inside
from support.trust import nothing_trusted
from tomoseg import Bundle, Segmenter, TomosegError, find_bundle
from tomoseg.bundle import trust
from tomoseg.bundle.trust import hash_code, is_trusted, require_trusted
from tomoseg.cli.trust import find_trusted

EVIL = {"preprocessing": "$open('marker', 'w')", "network_def": "$open('marker', 'w')"}
COMMANDS = {
    "segment": ["segment", "scan.nii.gz", "-o", "seg.nii.gz", "-b", "./evil"],
    "watch": ["watch", ".", "-o", "out", "-b", "./evil"],
    "train": ["train", "./evil", "--data", "."],
    "export": ["export", "./evil", "--format", "torchscript"],
    "evaluate": ["evaluate", "a.nii.gz", "b.nii.gz", "-o", "out", "-b", "./evil"],
}
Change = Callable[[Path], object]
# what changes the code of a bundle, and what does not
CHANGES: dict[str, tuple[Change, bool]] = {
    "config": (lambda root: (root / "configs" / "train.json").write_text("{}"), True),
    "macro": (lambda root: (root / "configs" / "parts" / "more.yaml").write_text("x: 1"), True),
    "script": (lambda root: (root / "scripts" / "later.py").write_text(""), True),
    "module beside": (lambda root: (root / "numpy.py").write_text(""), True),
    "compiled network": (lambda root: (root / "models" / "model.ts").write_bytes(b"x"), True),
    "extension": (lambda root: (root / "docs" / "x.cpython-311-x86_64-linux-gnu.so").write_bytes(b"x"), True),
    "renamed": (lambda root: (root / "scripts" / "net.py").rename(root / "scripts" / "other.py"), True),
    "module beside bytecode": (lambda root: (root / "scripts" / "__pycache__" / "net.pyc").write_bytes(b"x"), True),
    "compiled network as weights": (lambda root: write_torchscript(root / "models" / "model.pt"), True),
    "link": (lambda root: (root / "scripts" / "more").symlink_to(root / "docs"), True),
    "checkpoint": (lambda root: (root / "models" / "model.pt").write_bytes(b"x"), False),
    "card": (lambda root: (root / "docs" / "README.md").write_text("x"), False),
    "results": (lambda root: (root / "eval" / "metrics.csv").write_text("x"), False),
    "bytecode": (lambda root: (root / "scripts" / "__pycache__" / "net.cpython-311.pyc").write_bytes(b"x"), False),
}


@pytest.fixture(autouse=True)
def nothing(tmp_path: Path) -> Iterator[None]:
    with nothing_trusted(tmp_path / "data"):
        yield


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "evil")


def write_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/code/__torch__.py", "")


def write(root: Path) -> Path:
    for folder in ("configs/parts", "scripts/__pycache__", "models", "docs", "eval"):
        (root / folder).mkdir(parents=True)
    (root / "docs" / "note.txt").write_text("")
    (root / "scripts" / "net.py").write_text("open('marker', 'w')")
    for name, content in {"metadata": {}, "inference": EVIL, "train": EVIL}.items():
        (root / "configs" / f"{name}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_terminal_an_unknown_bundle_is_refused(evil: Path, name: str) -> None:
    done = run_inside(*COMMANDS[name])
    assert done.returncode == 2
    assert complaint(done).startswith("tomoseg: error: evil: a bundle is code, and this one is not trusted. ")
    assert not Path("marker").exists()
    assert [path.name for path in Path().iterdir()] == ["evil"]


@pytest.mark.parametrize("name", ["info", "check"])
def test_what_describes_runs_nothing(evil: Path, name: str) -> None:
    run_inside(name, "./evil")
    assert not Path("marker").exists()


def test_python_refuses_it_too(evil: Path) -> None:
    with pytest.raises(TomosegError, match=r"not trusted\. Look at it with `tomoseg info`"):
        Segmenter.from_bundle(evil)
    assert not Path("marker").exists()
    with pytest.raises(TomosegError, match="'preprocessing'"):
        Segmenter.from_bundle(evil, trust=True)
    assert Path("marker").exists()


@pytest.mark.parametrize("name", ["segment", "train", "export"])
def test_trust_is_remembered(evil: Path, name: str) -> None:
    run_inside(*COMMANDS[name], "--trust")
    assert is_trusted(find_bundle(evil))
    trust._allowed.clear()  # another process
    assert is_trusted(find_bundle("./evil"))
    shutil.copytree(evil, "copy")
    assert is_trusted(find_bundle("./copy"))


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_asked_again_when_code_changes(evil: Path, name: str) -> None:
    bundle = find_bundle(evil, trust=True)
    change, counts = CHANGES[name]
    before = hash_code(evil)
    change(evil)
    assert (hash_code(evil) != before) == counts
    if counts:
        with pytest.raises(TomosegError, match="not trusted"):
            require_trusted(bundle)
    else:
        require_trusted(bundle)


def test_code_behind_a_linked_folder_counts(evil: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (evil / "linked").symlink_to(tmp_path / "elsewhere")
    (evil / "linked" / "round").symlink_to(evil)
    bundle = find_bundle(evil, trust=True)
    (tmp_path / "elsewhere" / "net.py").write_text("")
    assert not is_trusted(bundle)


class Terminal(io.StringIO):
    """Standard input of a user who answers."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y\n", "YES\n", "\n", "no\n", ""])
def test_the_question_lists_what_is_unusual(evil: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", errors)
    if yes := answer.lower().startswith("y"):
        assert find_trusted("./evil", trust=False).root == Path("evil")
    else:
        with pytest.raises(TomosegError, match="evil: not run, because it is not trusted"):
            find_trusted("./evil", trust=False)
    assert "  scripts/net.py: Python code\n" in errors.getvalue()
    assert "  configs/inference.json: expression uses open: $open('marker', 'w')\n" in errors.getvalue()
    assert is_trusted(find_bundle(evil)) == yes
    assert not Path("marker").exists()


def test_bundles_of_ours_and_of_packages_are_trusted(bundle_folder: Path, tmp_path: Path) -> None:
    for given in ("hippocampus", bundle_folder, f"{bundle_folder}/"):
        require_trusted(find_bundle(given))
    shutil.copytree(bundle_folder / "configs", tmp_path / "copy" / "configs")
    assert not is_trusted(find_bundle(tmp_path / "copy"))


def test_without_a_data_folder_the_yes_holds_for_the_run(
    evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file")
    bundle: Bundle = find_bundle(evil, trust=True)
    assert "note" in capsys.readouterr().err
    require_trusted(bundle)
