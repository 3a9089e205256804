"""`tomoseg label-app` and `tomoseg label-server`: MONAI Label with tomoseg's bundles."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.bundle.registry import find_bundle
from tomoseg.cli.arguments import TrustOption
from tomoseg.cli.trust import find_trusted
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import print_line, print_warning
from tomoseg.label_app.options import ServerOptions

BundlesOption = Annotated[list[str] | None, typer.Option("-b", "--bundle", metavar="BUNDLE")]


def label_app(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    bundle: BundlesOption = None,
    versions: Annotated[bool, typer.Option("--versions")] = False,
    rollback: Annotated[bool, typer.Option("--rollback")] = False,
    to: Annotated[int | None, typer.Option(metavar="N")] = None,
    history: Annotated[str | None, typer.Option(metavar="IMAGE")] = None,
    restore: Annotated[int | None, typer.Option(metavar="N")] = None,
) -> None:
    """Write a MONAI Label app that serves bundles, or choose among its trained weights or an image's labels.

    Args:
        folder: the app's folder; made if it is not there.
        bundle: a bundle to serve, by name, beginning of a name or folder; may be given several times. All if left out.
        versions: list the weights that were trained, and stop.
        rollback: use the weights again that the current ones were trained from.
        to: with --rollback: this version; 0 is the bundle's own.
        history: list the labels that were submitted for an image, and stop.
        restore: with --history: store this version again, as the newest.

    Examples:
        tomoseg label-app app/ -b hippocampus
        tomoseg label-app app/ --versions
    """
    from tomoseg.label_app.folder import LabelApp

    app = LabelApp(folder)
    if to is not None and not rollback:
        raise UsageError("--to: is for --rollback")
    if restore is not None and history is None:
        raise UsageError("--restore: needs an image. Name it with --history")
    if history is not None:
        _show_history(folder, history, restore)
        return
    if not versions and not rollback:
        served = app.write(bundle or ())
        start = f"tomoseg label-server --app {folder} --studies STUDIES"
        print_line(f"{folder}: serves {', '.join(one.name for one in served)}. Start it with: {start}")
        return
    chosen = [find_bundle(name) for name in bundle] if bundle else list(app.bundles)
    if rollback and len(chosen) > 1:
        raise UsageError(f"--rollback: choose a bundle with -b: {', '.join(one.name for one in chosen)}")
    for one in chosen:
        weights = app.weights(one)
        if rollback:
            print_line(f"{one.name}: uses {_describe(weights.roll_back(to).number)} now")
            continue
        current = weights.current.number
        for number in weights.numbers:
            facts = "".join(f", {key} {value}" for key, value in weights.version(number).facts.items())
            print_line(f"{one.name}: {_describe(number)}{', in use' if number == current else ''}{facts}")


def _show_history(folder: Path, image: str, restore: int | None) -> None:
    from tomoseg.label_app.folder import LabelApp
    from tomoseg.label_app.server import restore_label

    submissions = LabelApp(folder).history.of(image) if restore is None else [restore_label(folder, image, restore)]
    if not submissions:
        raise UsageError(f"image {image!r}: nothing was submitted; its id is the name without the suffix")
    for one in submissions:
        print_line(f"{image}: {one}")


def label_server(
    studies: Annotated[str, typer.Option(metavar="FOLDER|URL")],
    options: ServerOptions,
    bundle: BundlesOption = None,
    app: Annotated[Path | None, typer.Option(metavar="FOLDER")] = None,
    trust: TrustOption = False,
) -> None:
    """Start MONAI Label's server with bundles as its models, for 3D Slicer and OHIF.

    Args:
        studies: a folder of scans, or the URL of a DICOMweb archive.
        options: where it listens, and who may ask.
        bundle: a bundle to serve, by name, beginning of a name or folder; may be given several times. All if left out.
        app: the app's folder, outside of the studies; by default one in your data folder for each place of studies.

    Examples:
        tomoseg label-server --studies scans/ -b hippocampus
        tomoseg label-server --studies http://127.0.0.1:8042/dicom-web
    """
    from tomoseg.label_app.server import serve_label_app

    serve_label_app(
        studies, app, bundle or (), options, gate=lambda one: find_trusted(one, trust), on_warning=print_warning
    )


def _describe(number: int) -> str:
    return f"version {number}" if number else "version 0, the bundle's own weights"
