"""Dataclasses as JSON, and back from untrusted JSON."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_INTEGER = 2**63 - 1


def to_json(value: Any) -> Any:
    """Return a value as JSON has it: a path as text, null for NaN, "inf" for an infinite number.

    A dataclass becomes an object of its fields, or what its method `as_json` returns.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return list(map(to_json, sorted(value) if isinstance(value, frozenset) else value))
    if is_dataclass(value):
        return value.as_json() if hasattr(value, "as_json") else to_json(vars(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return str(value) if isinstance(value, Path) else value


def from_json(kind: Any, value: Any) -> Any:
    """Return what JSON holds as a value of a type, which `dataclasses.asdict` took apart.

    Args:
        kind: a dataclass, or the type of one of its fields. Whole numbers are 0 or more, others finite.
        value: what JSON made of it: lists for tuples, objects for dataclasses.

    Raises:
        ValueError: it is none.
    """
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return None if value is None and NoneType in parts else from_json(parts[0], value)
    if get_origin(kind) is Literal and value in parts and isinstance(value, str):
        return value
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(from_json(one, entry) for one, entry in zip(kinds, value, strict=True))
    if get_origin(kind) is dict and isinstance(value, Mapping):
        keys = [int(key) if parts[0] is int else from_json(parts[0], key) for key in value]  # JSON has texts as keys
        return {key: from_json(parts[1], entry) for key, entry in zip(keys, value.values(), strict=True)}
    if is_dataclass(kind) and isinstance(value, Mapping) and value.keys() <= {one.name for one in fields(kind)}:
        hints: Any = get_type_hints(kind)
        with_values: Any = {name: from_json(hints[name], entry) for name, entry in value.items()}
        try:
            return kind(**with_values)  # type: ignore[operator]
        except TypeError as error:
            raise ValueError(str(error)) from error
    if kind in (str, bool) and type(value) is kind:
        return value
    if kind is int and type(value) is int and 0 <= value <= MAX_INTEGER:
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= MAX_INTEGER and math.isfinite(value):
        return float(value)
    raise ValueError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
