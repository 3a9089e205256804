"""Options classes: the frozen dataclasses that Python, the command line, Ray and the reports share."""

import inspect
import re
from dataclasses import dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from tomoseg.core.errors import UsageError


@dataclass(frozen=True)
class Option:
    """What the command line shows of a field, where the field's name and type do not say it; for `Annotated`.

    Attributes:
        metavar: what stands for the value in the help.
        names: of the option, e.g. ("--checkpoint",); by default the field's name.
        hidden: the field is for Python only.
    """

    metavar: str | None = None
    names: tuple[str, ...] = ()
    hidden: bool = False


class FieldType(NamedTuple):
    """The type of a field, taken apart.

    Attributes:
        kinds: its types, or those of its items, without None.
        choices: all the values that it may have; empty for any.
        many: it is a tuple of any length.
        optional: it may be None.
        default: its default.
        option: what the command line shows of it.
    """

    kinds: tuple[Any, ...]
    choices: tuple[str, ...]
    many: bool
    optional: bool
    default: Any
    option: Option


def field_types(options: Any) -> dict[str, FieldType]:
    """Return the type of each field of an options class."""
    hints = get_type_hints(options, include_extras=True)
    return {one.name: _take_apart(hints[one.name], one.default) for one in fields(options)}


def field_texts(described: Any, title: str = "Attributes") -> dict[str, str]:
    """Return what the docstring of an options class or of a function says of each field, in the section `title`."""
    section = inspect.cleandoc(described.__doc__ or "").partition(f"\n{title}:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def require_choices(options: Any) -> None:
    """Raise UsageError if a field has none of the values of its `Literal`, or is one text in place of several."""
    for name, (_, choices, many, optional, *_) in field_types(type(options)).items():
        value = getattr(options, name)
        if many and isinstance(value, str):
            raise UsageError(f"{name}: expected {_some_of(choices)}, got {value!r}")
        if choices and not (optional and value is None):
            wrong = [one for one in (value if many else (value,)) if one not in choices]
            if wrong:
                wanted = _some_of(choices) if many else ", ".join(choices)
                raise UsageError(f"{name.replace('_', ' ')}: expected {wanted}, got {wrong[0]!r}")


def _some_of(choices: tuple[str, ...]) -> str:
    return f"some of {', '.join(choices)}" if choices else "a list"


def _take_apart(hint: Any, default: Any) -> FieldType:
    option = Option()
    if get_origin(hint) is Annotated:
        hint, option = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional = type(None) in kinds
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    many = get_origin(kinds[0]) is tuple
    if many:
        kinds = get_args(kinds[0])[:1]
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
    return FieldType(kinds, choices, many, optional, default, option)
