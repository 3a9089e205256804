"""Parameters that several commands have, and options that come from options classes."""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from tomoseg.core.options import FieldType, field_texts, field_types

# options of several commands; without a help here, the docstring of each command has the same
BundleOption = Annotated[str, typer.Option("-b", "--bundle", metavar="BUNDLE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
TrustOption = Annotated[bool, typer.Option("--trust", help="Run the bundle's code without asking, and remember it.")]
Command = Callable[..., None]


def with_options(command: Command) -> Command:
    """Give a command an option for each field of each options class among its parameters.

    The help of its other parameters is what its docstring says of them under `Args:`.
    """
    parameters: list[inspect.Parameter] = []
    classes: dict[str, Any] = {}
    texts = field_texts(command, "Args")
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if is_dataclass(parameter.annotation):
            classes[name] = parameter.annotation
            parameters += options_of(parameter.annotation)
        else:
            for shown in getattr(parameter.annotation, "__metadata__", ()):
                shown.help = shown.help or _sentence(texts[name])
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @wraps(command)
    def call(**given: Any) -> None:
        command(**{name: read_options(options, given) for name, options in classes.items()} | given)

    vars(call)["__signature__"] = inspect.Signature(parameters)  # typer reads both
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__doc__ = inspect.cleandoc(command.__doc__ or "").partition("\n\nArgs:")[0]
    return call


def add_command(app: typer.Typer, command: Command, name: str | None = None) -> None:
    """Add a command with all of its summary in the list of commands, and with its docstring's examples in its help."""
    text = inspect.cleandoc(command.__doc__ or "")
    examples = text.partition("\n\nExamples:\n")[2]
    epilog = f"\b\nExamples:\n{examples}"  # \b: lines stay lines
    app.command(name, short_help=text.partition("\n")[0], epilog=epilog)(with_options(command))


def options_of(options: Any) -> list[inspect.Parameter]:
    """Return typer's parameter for each field of an options class; its help is what the docstring says of the field."""
    texts, found = field_texts(options), []
    for name, kind in _shown(options).items():
        flag = f"--{name.replace('_', '-')}"
        names = kind.option.names or ((f"{flag}/--no-{flag[2:]}" if kind.optional and kind.kinds == (bool,) else flag),)
        metavar = kind.option.metavar or "|".join(kind.choices) or None
        has_default = kind.default not in (None, (), False)
        shown = typer.Option(*names, metavar=metavar, help=_sentence(texts[name]), show_default=has_default)
        annotation = Annotated[_type_for_typer(kind), shown]  # type: ignore[valid-type]
        default = None if kind.many else kind.default
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return found


def read_options(options: Any, given: dict[str, Any]) -> Any:
    """Take the fields of an options class out of what typer has read, and return the options."""
    values = {}
    for name, kind in _shown(options).items():
        value = given.pop(name)
        if kind.many:
            value = tuple(value or ())
        elif int in kind.kinds and isinstance(value, str) and value.isdecimal():
            value = int(value)
        values[name] = value
    return options(**values)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _shown(options: Any) -> dict[str, FieldType]:
    return {name: kind for name, kind in field_types(options).items() if not kind.option.hidden}


def _type_for_typer(kind: FieldType) -> Any:
    one: Any = str if kind.choices or str in kind.kinds else kind.kinds[0]  # the options class checks the choices
    one = list[one] if kind.many else one
    return one | None if kind.many or kind.optional else one
