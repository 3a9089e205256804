"""Options classes: their types, their texts, and the values that they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option, field_texts, field_types, require_choices


@dataclass(frozen=True)
class Chosen:
    """Some options.

    Attributes:
        output_type: one of a few,
            explained on two lines.
        steps: some of a few.
        size: any number or text.
        names: any texts.

    Raises:
        UsageError: never mind.
    """

    output_type: Literal["small", "large"] | None = None
    steps: tuple[Literal["first", "second"], ...] = ()
    size: Annotated[int | str | None, Option("SIZE", ("--how-large",), hidden=True)] = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_choices(self)


def test_types_are_taken_apart() -> None:
    types = field_types(Chosen)
    assert list(types) == ["output_type", "steps", "size", "names"]
    assert (types["output_type"].choices, types["output_type"].optional) == (("small", "large"), True)
    assert (types["steps"].choices, types["steps"].many) == (("first", "second"), True)
    assert (types["size"].kinds, types["size"].option.metavar) == ((int, str), "SIZE")
    assert (types["names"].kinds, types["names"].many, types["names"].optional) == ((str,), True, False)


def test_texts_are_those_of_the_docstring() -> None:
    assert field_texts(Chosen) == {
        "output_type": "one of a few, explained on two lines.",
        "steps": "some of a few.",
        "size": "any number or text.",
        "names": "any texts.",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_type": "huge"}, "output type: expected small, large, got 'huge'"),
        ({"steps": ("first", "third")}, "steps: expected some of first, second, got 'third'"),
        ({"steps": "first"}, "steps: expected some of first, second, got 'first'"),
        ({"names": "one"}, "names: expected a list, got 'one'"),
    ],
)
def test_other_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        Chosen(**given)
    Chosen("small", ("second", "first"), "any", ("one", "two"))
