"""What the cleaning transforms have in common: an image in, the same kind of image out, and a note that stays."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TransformBackends, convert_to_dst_type
from numpy.typing import NDArray

from tomoseg.core.errors import VolumeError

# key of a MetaTensor's meta: a list of one line for each cleaning transform
CLEANING = "cleaning"
Spacing = tuple[float, float, float]


class Cleaner(MapTransform):  # type: ignore[misc]
    """Base of the transforms that clean images, channel by channel.

    Each image is (C, I, J, K): a MetaTensor, whose affine gives the spacing, or a tensor or array, whose spacing is
    taken as 1 mm. What comes out is of the same kind, dtype (float32 where integers cannot hold it) and device, with
    the same affine, meta and applied operations; the input does not change. A line with a note is added
    to the meta's list `CLEANING`; `cleaning_notes` reads it.

    Args:
        keys: of the images.
        allow_missing_keys: leave out those that the data does not have.

    Raises:
        VolumeError: an image is not (C, I, J, K), or not real-valued.
    """

    backend: ClassVar[list[Any]] = [TransformBackends.NUMPY]

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Clean the images of the keys, and return them in a copy of the dictionary."""
        cleaned = dict(data)
        for key in self.key_iterator(cleaned):
            cleaned[key] = self._clean_image(cleaned[key], str(key))
        return cleaned

    @abstractmethod
    def clean(self, channel: NDArray[Any], spacing: Spacing, source: str) -> tuple[NDArray[Any], str]:
        """Return the cleaned channel, and a note of a few words.

        Args:
            channel: (I, J, K), any real dtype; not to be written to.
            spacing: mm along (I, J, K).
            source: what errors call the image.
        """

    def _clean_image(self, image: Any, key: str) -> Any:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        source = str(meta.get("filename_or_obj", f"the image {key!r}"))
        array = _as_array(image)
        if array.ndim != 4 or not array.size or array.dtype.kind not in "biuf":
            raise VolumeError(
                f"{source}: {type(self).__name__} expected real values of shape (C, I, J, K), "
                f"got {array.dtype} {array.shape}; LoadImaged with ensure_channel_first makes them"
            )
        i, j, k = image.pixdim.tolist() if isinstance(image, MetaTensor) else (1.0, 1.0, 1.0)
        done = [self.clean(channel, (i, j, k), source) for channel in array]
        values = np.stack([channel for channel, _ in done])
        result, *_ = convert_to_dst_type(values, image, dtype=image.dtype if array.dtype.kind == "f" else values.dtype)
        if isinstance(result, MetaTensor):
            # always one line for each transform: MONAI collates only lists of one length into a batch
            result.meta[CLEANING] = [*meta.get(CLEANING, ()), _in_one_line([note for _, note in done])]
        return result


class FiniteCleaner(Cleaner):
    """Base of the cleaners that need finite values, and have nothing to do where all are one.

    Attributes:
        name: its effect, and the library.

    Raises:
        VolumeError: an image holds NaN or infinite values.
    """

    name: ClassVar[str]

    def clean(self, channel: NDArray[Any], spacing: Spacing, source: str) -> tuple[NDArray[np.float32], str]:
        """Return the channel after `filter`, and a note."""
        array = np.array(channel, dtype=np.float32)
        if not np.isfinite(array).all():
            raise VolumeError(
                f"{source}: {type(self).__name__} expected finite values, "
                f"got {np.count_nonzero(~np.isfinite(array))} that are not; ReplaceNonFinited replaces them"
            )
        # along an axis of one voxel there is nothing to compare, and ITK and wavelets stumble over it
        sides = tuple(mm for mm, size in zip(spacing, array.shape, strict=True) if size > 1)
        if array.min() == array.max() or len(sides) < 2:
            return array, f"{self.name}: nothing to do, all values are one or lie in one line"
        filtered, note = self.filter(array.squeeze(), sides)
        return filtered.reshape(array.shape), f"{self.name}{note}"

    @abstractmethod
    def filter(self, array: NDArray[np.float32], spacing: tuple[float, ...]) -> tuple[NDArray[np.float32], str]:
        """Return the cleaned array and what goes behind the name in the note.

        Args:
            array: two or three axes of two voxels or more, finite, not constant; it may be overwritten.
            spacing: mm along each of them.
        """


def cleaning_notes(image: Any) -> tuple[str, ...]:
    """Return what the cleaning transforms did to an image, a line for each; nothing where it is no MetaTensor."""
    return tuple(image.meta.get(CLEANING, ())) if isinstance(image, MetaTensor) else ()


def _as_array(image: Any) -> NDArray[Any]:
    if isinstance(image, torch.Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu()  # NumPy has no bfloat16
    return np.asarray(image)


def _in_one_line(notes: list[str]) -> str:
    if len(set(notes)) == 1:
        return f"cleaned: {notes[0]}"
    return "cleaned: " + "; ".join(f"channel {index}: {note}" for index, note in enumerate(notes))
