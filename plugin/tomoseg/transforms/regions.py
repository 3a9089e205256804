"""One label map of regions that overlap, such as a tumour and its core."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from tomoseg.core.errors import UsageError, VolumeError


class MergeRegionsd(MapTransform):  # type: ignore[misc]
    """Make one label map of a mask for each region; where several regions lie, the last of them gives the label.

    In a post-processing it stands behind `AsDiscreted(threshold=...)`, as nnU-Net's `regions_class_order` does.

    Args:
        keys: of the masks, (region, I, J, K); a voxel above 0 belongs to the region.
        labels: label of each region, from the first to the last.
        allow_missing_keys: leave out those that the data does not have.

    Raises:
        UsageError: a label is no whole number from 1 on.
        VolumeError: there are not as many masks as labels.

    Example:
        >>> import torch
        >>> from tomoseg.transforms import MergeRegionsd
        >>> whole, core = torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 0]])
        >>> MergeRegionsd("pred", labels=(2, 1))({"pred": torch.stack([whole, core])[..., None]})["pred"].flatten()
        tensor([2, 1, 0])
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __init__(self, keys: KeysCollection, labels: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not labels or not all(type(label) is int and label > 0 for label in labels):
            raise UsageError(f"labels: expected a whole number from 1 on for each region, got {labels}")
        self.labels = tuple(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each stack of masks made one label map, (1, I, J, K) of the masks' dtype."""
        merged = dict(data)
        for key in self.key_iterator(merged):
            regions = torch.as_tensor(merged[key])
            if len(regions) != len(self.labels):
                raise VolumeError(
                    f"{key!r}: MergeRegionsd expected {len(self.labels)} masks, one for each label, got {len(regions)}"
                )
            labels = torch.zeros_like(regions[:1])
            for region, label in zip(regions, self.labels, strict=True):
                labels[0][region > 0] = label
            merged[key] = labels
        return merged
