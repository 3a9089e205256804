"""The number of threads that torch and SimpleITK compute with."""

import os
import sys

import torch

from tomoseg.core.threads import choose_threads


def use_threads(asked: int | None) -> None:
    """Set the number of threads of this process; OpenVINO and ONNX Runtime get torch's.

    Args:
        asked: by the user; None for what `choose_threads` returns, and not more than torch has, which is less where
            cores run two threads each, or where the program has chosen.

    Raises:
        UsageError: it is below 1.
    """
    number = choose_threads(asked)
    if asked is None:
        number = min(number, torch.get_num_threads())
    torch.set_num_threads(number)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(number)  # read when SimpleITK is imported
    if "SimpleITK" in sys.modules:
        sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(number)
