"""One at a time on each device, over all threads and processes of an app."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def turn(folder: Path, device: str) -> Iterator[None]:
    """Wait until no other process or thread computes on a device.

    MONAI Label runs batches in processes of their own; two networks on one GPU may be more than its memory holds.

    Args:
        folder: the app's; the lock is a hidden file in it, which the system lets go if its holder is killed.
        device: "cpu", "cuda:0", …
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{device.replace(':', '_')}.lock", poll_interval=0.01):
        yield
