"""The command line: a module for each command, or for a few small ones.

Exit status: 0 all done, 1 some case failed (the others are done and written), 2 wrong usage.
"""

import atexit
import gc
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from tomoseg.cli.arguments import add_command
from tomoseg.cli.calibrate import calibrate
from tomoseg.cli.describe import bundles, check, doctor, info
from tomoseg.cli.evaluate import evaluate
from tomoseg.cli.export import export
from tomoseg.cli.import_model import import_model
from tomoseg.cli.label import label_app, label_server
from tomoseg.cli.mercure import mercure
from tomoseg.cli.other_tools import find_counterpart
from tomoseg.cli.plan import plan
from tomoseg.cli.segment import segment
from tomoseg.cli.train import train
from tomoseg.cli.watch import watch
from tomoseg.core.errors import TomosegError, one_line
from tomoseg.core.notes import print_error
from tomoseg.core.threads import stop_spinning
from tomoseg.core.version import __version__

app = typer.Typer(
    help="3D segmentation of CT and MRI with MONAI bundles.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
COMMANDS = (
    segment, watch, mercure, plan, train, evaluate, calibrate, export, check, info, bundles, doctor, label_app,
    label_server,
)  # fmt: skip
for command in COMMANDS:
    add_command(app, command)
add_command(app, import_model, "import")  # a word of Python's own
INTERRUPTED_STATUS = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line; an error that a user can correct is one line on standard error."""
    stop_spinning()
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # read when torch is imported
    atexit.register(gc.freeze)  # else Python looks through all that torch and MONAI made once more as it ends: 3 s
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED_STATUS:
            print_error("interrupted; finished results are kept")
        sys.exit(status)
    except TyperException as error:
        advice = find_counterpart(sys.argv[1:]) or "See `tomoseg --help` and `tomoseg COMMAND --help`."
        print_error(f"{error.format_message()} {advice}")
        sys.exit(2)
    except TomosegError as error:
        print_error(one_line(error, 2000))
        sys.exit(2)
    except BrokenPipeError:  # `tomoseg info | head`
        sys.stderr.close()
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"tomoseg {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
