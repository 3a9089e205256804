"""Options of commands that come from options classes."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import pytest
import typer

from tomoseg.batch.options import ExecutorOptions, OutputOptions
from tomoseg.bundle.options import RunOptions
from tomoseg.cli.arguments import options_of, read_options, with_options
from tomoseg.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("options", "given", "wanted"),
    [
        (RunOptions, {}, RunOptions()),
        (RunOptions, {"clean": ["denoise", "non-finite"]}, RunOptions(clean=("denoise", "non-finite"))),
        (RunOptions, {"checkpoints": ["a.pt", "b.pt"]}, RunOptions(checkpoints=("a.pt", "b.pt"))),
        (RunOptions, {"max_memory": "6GB", "skip_empty": False}, RunOptions(max_memory="6GB", skip_empty=False)),
        (TrainingOptions, {"fold": "2"}, TrainingOptions(fold=2)),
        (TrainingOptions, {"fold": "all"}, TrainingOptions(fold="all")),
        (OutputOptions, {"preview": True}, OutputOptions(preview=True)),
    ],
)
def test_what_was_typed_becomes_options(options: type, given: dict[str, Any], wanted: object) -> None:
    typed = {parameter.name: parameter.default for parameter in options_of(options)} | given
    assert read_options(options, typed) == wanted
    assert typed == {}  # nothing is left for the command


def test_a_command_gets_an_option_for_each_field_that_is_shown() -> None:
    seen: list[object] = []

    def command(name: str, options: RunOptions, where: ExecutorOptions, last: int = 3) -> None:
        seen.extend((name, options, where, last))

    changed = with_options(command)
    names = list(vars(changed)["__signature__"].parameters)
    assert names[0] == "name"
    assert names[-1] == "last"
    assert names[1:-1] == [field.name for field in (*fields(RunOptions), *fields(ExecutorOptions))]
    defaults = {parameter.name: parameter.default for parameter in options_of(RunOptions) + options_of(ExecutorOptions)}
    changed(**defaults | {"tta": True, "name": "x", "last": 4})
    assert seen == ["x", RunOptions(tta=True), ExecutorOptions(), 4]


def test_the_help_of_other_parameters_is_what_the_docstring_says() -> None:
    def command(
        path: Annotated[str, typer.Argument(metavar="PATH")], count: Annotated[int, typer.Option(help="Own.")] = 3
    ) -> None:
        """Do something.

        Args:
            path: a file, or
                a folder.
            count: not shown.
        """

    changed = with_options(command)
    shown = {name: one.annotation.__metadata__[0] for name, one in vars(changed)["__signature__"].parameters.items()}
    assert {name: one.help for name, one in shown.items()} == {"path": "A file, or a folder.", "count": "Own."}
    assert changed.__doc__ == "Do something."
