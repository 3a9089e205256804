"""`tomoseg info`, `bundles` and `doctor`: what is there."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import find_bundle, registered_names
from tomoseg.core.errors import BundleError, one_line
from tomoseg.core.json_files import SCHEMA_VERSION


def info(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A name or a folder; all bundles if left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a bundle segments, in what kind of scan, and where it lies."""
    described = [_describe(find_bundle(name)) for name in ([bundle] if bundle else registered_names())]
    if as_json:
        versioned = [{"schema_version": SCHEMA_VERSION, **entry} for entry in described]
        print(json.dumps(versioned[0] if bundle else versioned, indent=2, ensure_ascii=False))
        return
    console = Console()
    for entry in described:
        table = Table("", "", title=escape(entry["name"]), show_header=False, title_justify="left")
        for key, value in entry.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            table.add_row(key, escape(shown))
        console.print(table)


def bundles() -> None:
    """List the bundles that are installed."""
    table = Table("name", "version", "modality", "labels")
    for name in registered_names():
        try:
            bundle = find_bundle(name)
            row = (name, bundle.version, bundle.modality, ", ".join(bundle.labels.values()))
        except BundleError as error:
            row = (name, "—", "—", f"unusable: {one_line(error)}")
        table.add_row(*map(escape, row))
    Console().print(table)


def doctor() -> None:
    """Check that this installation can work, and say what is missing."""
    from tomoseg.cli.doctor import examine

    table = Table("", "what", "found")
    findings = examine()
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.good else "[red]bad[/]", escape(finding.what), escape(finding.found))
    Console().print(table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "modality": bundle.modality,
        "channels": bundle.input_names,
        "labels": {str(value): name for value, name in bundle.labels.items()},
        "description": bundle.description,
        "folder": str(bundle.root),
        "licence": str(bundle.metadata.get("copyright", "")),
    }
