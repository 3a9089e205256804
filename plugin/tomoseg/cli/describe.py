"""`tomoseg info`, `bundles`, `doctor` and `check`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tomoseg.bundle.registry import find_bundle, registered_names
from tomoseg.bundle.store import add_bundle, remove_bundle
from tomoseg.bundle.trust import is_trusted
from tomoseg.bundle.unusual import find_unusual
from tomoseg.cli.arguments import JsonOption, TrustOption
from tomoseg.cli.terminal import print_table, status
from tomoseg.cli.trust import find_trusted
from tomoseg.core.errors import BundleError, UsageError, one_line
from tomoseg.core.json_files import SCHEMA_VERSION, format_json
from tomoseg.core.notes import print_json, print_line
from tomoseg.core.reading import ReadOptions, read_with


def info(bundle: Annotated[str, typer.Argument(metavar="BUNDLE")] = "", as_json: JsonOption = False) -> None:
    """Describe a bundle: its labels, scans and folder, and unusual parts of its code; run nothing of it.

    Args:
        bundle: a name or a folder; all bundles if left out.

    Examples:
        tomoseg info
        tomoseg info hippocampus --json
    """
    chosen = [find_bundle(name) for name in ([bundle] if bundle else registered_names())]
    described = [{**one.describe(), "unusual": find_unusual(one.root)} for one in chosen]
    if as_json:
        versioned = [{"schema_version": SCHEMA_VERSION, **entry} for entry in described]
        print_json(json.dumps(versioned[0] if bundle else versioned, indent=2, ensure_ascii=False))
        return
    for entry in described:
        shown = {key: ", ".join(f"{k} {_shown(v)}" for k, v in value.items() if v) if isinstance(value, dict)
                 else str(value) for key, value in entry.items()}  # fmt: skip
        shown["unusual"] = "\n".join(entry["unusual"]) or "nothing unusual"
        print_table(entry["name"], ("", ""), shown.items())


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)


def bundles(
    add: Annotated[str, typer.Option("--add", metavar="SOURCE")] = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME")] = "",
    remove: Annotated[str, typer.Option("--remove", metavar="NAME")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the bundles that are installed or were added, or add or remove one; nothing of them runs.

    Args:
        add: copy a bundle into your data folder: a folder, a ZIP, or zoo:NAME or zoo:NAME@VERSION of MONAI's model zoo.
        name: with --add: call it so.
        remove: remove a bundle that was added.

    Examples:
        tomoseg bundles
        tomoseg bundles --add zoo:spleen_ct_segmentation
    """
    if (add and remove) or (name and not add):
        raise UsageError("--add, --name, --remove: expected --add SOURCE with or without --name, or --remove NAME")
    if remove:
        remove_bundle(remove)
        print_line(f"{remove}: removed")
        return
    if add:
        with status(f"adding {add}"):
            made = add_bundle(add, name, fetch=_fetch)
        print_line(f"{made.name}: added; see it with: tomoseg info {made.name}")
        return
    described = [_summarise(one) for one in registered_names()]
    if as_json:
        print_json(format_json({"bundles": described}))
        return
    rows = [(entry["name"], "—", "—", f"unusable: {entry['error']}", "—", "—", "—") if "error" in entry else (
        entry["name"], entry["version"], entry["modality"], ", ".join(entry["labels"].values()),
        f"{entry['size_bytes'] / 1e6:.0f} MB", entry["licence"] or "—", "yes" if entry["trusted"] else "no",
    ) for entry in described]  # fmt: skip
    print_table("", ("name", "version", "modality", "labels", "size", "licence", "trusted"), rows)


def _fetch(name: str, version: str | None, folder: Path) -> Path:
    from tomoseg.convert.zoo import fetch_from_zoo  # imports MONAI

    return fetch_from_zoo(name, version, folder)


def _summarise(name: str) -> dict[str, Any]:
    """Return what the list of bundles says of one."""
    try:
        bundle = find_bundle(name)
        size = sum(path.stat().st_size for path in bundle.root.rglob("*") if path.is_file())
        return {**bundle.describe(), "size_bytes": size, "trusted": is_trusted(bundle)}
    except (BundleError, OSError) as error:
        return {"name": name, "error": one_line(error)}


def doctor(
    measure: Annotated[str, typer.Option("--measure", metavar="BUNDLE")] = "",
    data: Annotated[Path | None, typer.Option("--data", metavar="DATASET")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the installation, and list missing packages; or measure how fast a bundle's network is here.

    Args:
        measure: bundle whose network is timed in each precision.
        data: with --measure: labelled cases that the network has not seen; what each precision does to their Dice is
            written into the bundle, and `--precision auto` follows it.

    Examples:
        tomoseg doctor
        tomoseg doctor --measure hippocampus
    """
    if data is not None and not measure:
        raise UsageError("--data: is for --measure. Give a bundle with --measure BUNDLE.")
    if as_json and measure:
        raise UsageError("--json: is for the checks. Leave out --measure.")
    if measure:
        from tomoseg.cli.measure import COLUMNS, measure_bundle

        bundle = find_trusted(measure, trust)
        with status(f"measuring {bundle.name}"):
            rows = list(measure_bundle(bundle, data))
        print_table("", COLUMNS, rows)
        return
    from tomoseg.cli.doctor import examine_installation

    findings = examine_installation()
    ok = all(finding.good for finding in findings)
    if as_json:
        print_json(format_json({"ok": ok, "findings": list(map(asdict, findings))}))
    else:
        rows = [("ok" if finding.good else "bad", finding.what, finding.found) for finding in findings]
        print_table("", ("", "what", "found"), rows)
    if not ok:
        raise typer.Exit(1)


def check(
    paths: Annotated[list[Path], typer.Argument(metavar="SCAN|FOLDER...")],
    voxels: Annotated[bool, typer.Option("--voxels")] = False,
    *,
    reading: ReadOptions,
    as_json: JsonOption = False,
) -> None:
    """Describe scans and labelled datasets, and list their errors.

    Args:
        paths: scans, folders with scans, or labelled datasets.
        voxels: read the voxels, too, not only the headers.

    Examples:
        tomoseg check scans/
        tomoseg check dataset/ --voxels
    """
    from tomoseg.data.inspection.inspection_report import inspect
    from tomoseg.data.inspection.tables import list_errors, list_notes, tabulate

    with status("looking for scans") as show, read_with(reading):
        report = inspect(paths, voxels=voxels, on_scan=show)
    if as_json:
        print_json(format_json(report.as_json()))
    else:
        for content in tabulate(report):
            print_table(content.title, content.columns, content.rows)
        for note in list_notes(report):
            print_line(f"note: {note}")
        for problem in list_errors(report):
            print_line(f"problem: {problem}")
    if not report.ok:
        raise typer.Exit(1)
