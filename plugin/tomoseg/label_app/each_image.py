"""Handle the images of a request one by one; a failed image is reported, and the others continue."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tomoseg.core.errors import one_line
from tomoseg.core.notes import print_line
from tomoseg.label_app.request import number


def limit_images(images: list[str], request: Mapping[str, Any], name: str) -> list[str]:
    """Return at most as many images as a request says under this name; 0, or nothing, is all of them."""
    return images[: int(number(request, name, 0) or 0) or len(images)]


def for_each_image(images: Sequence[str], work: Callable[[str], None], done: str) -> dict[str, str]:
    """Do a work on one image after the other, and print how each went.

    Args:
        images: their ids.
        work: called with each id.
        done: text printed after each image.

    Returns:
        Why some failed, by id.
    """
    failed: dict[str, str] = {}
    for count, image in enumerate(images, 1):
        try:
            work(image)
        except Exception as error:  # of MONAI Label's datastore, of MONAI, torch or a bundle's own code: this image's
            failed[image] = one_line(error)
        print_line(f"{count}/{len(images)} {image}: {f'failed: {failed[image]}' if image in failed else done}")
    return failed
