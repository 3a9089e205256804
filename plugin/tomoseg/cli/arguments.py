"""Parameters that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from tomoseg.bundle.options import CLEANERS, Options

BundleOption = Annotated[
    str,
    typer.Option("-b", "--bundle", metavar="BUNDLE", help="A registered name, its beginning, or a bundle's folder."),
]
OutputTypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="nifti|nrrd|dicom-seg|dicom-labelmap|rtstruct",
        help="What the labels are written as; by default what the output's name ends in, and nifti for a folder.",
    ),
]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Write a picture (PNG) beside each label map.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Threads; by default OMP_NUM_THREADS, else the cores that it may use.", show_default=False
    ),
]
Command = Callable[..., None]


def read_options(
    clean: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(CLEANERS),
            help="Clean each scan first; may be given several times, done in that order.",
            show_default=False,
        ),
    ] = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X,Y,Z|whole",
            help="Centre (or two corners) of a region's box, RAS+ mm, where it is not to be looked for; or the scan as "
            "it is.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where the network runs.")] = "auto",
    backend: Annotated[str, typer.Option(metavar="auto|torch|openvino", help="What runs the network.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|bf16|fp16|int8", help="What the network computes in; int8 needs `tomoseg export` first."
        ),
    ] = "auto",
    overlap: Annotated[
        float | None, typer.Option(help="Overlap of neighbouring windows, 0 to below 1; the bundle's own if not given.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average mirrored predictions; slower, a little better.")] = False,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights in place of the bundle's; give it several times to average.", show_default=False),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Limit for RAM, and for the GPU's memory, e.g. 6GB.")
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write a map of the entropy beside each label map.")
    ] = False,
    skip_empty: Annotated[
        bool | None,
        typer.Option("--skip-empty/--no-skip-empty", help="Run windows of one value, such as air, only once."),
    ] = None,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the network first; pays off for many scans.")
    ] = False,
    threads: ThreadsOption = None,
) -> Options:
    """Return how the network is to be run."""
    return Options(
        device=device,
        backend=backend,
        precision=precision,
        overlap=overlap,
        tta=tta,
        max_memory=max_memory,
        uncertainty=uncertainty,
        skip_empty=skip_empty,
        checkpoints=tuple(map(str, checkpoint or ())),
        compile=compile_network,
        clean=tuple(clean or ()),
        roi=tuple(roi or ()),
        threads=threads,
    )


def with_options(command: Command) -> Command:
    """Give a command the parameters of `read_options`, in place of its own parameter `options`."""
    theirs = inspect.signature(read_options, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        parameters += theirs.values() if name == "options" else [parameter]

    @wraps(command)
    def call(**given: Any) -> None:
        options = read_options(**{name: given.pop(name) for name in theirs})
        command(**given, options=options)

    vars(call)["__signature__"] = inspect.Signature(parameters)  # typer reads both
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
