"""Connected components of a mask."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # voxels that share a face, an edge or a corner, as in MONAI


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected component of a mask (I, J, K); the first one if two are equally large."""
    components, count = ndimage.label(mask, NEIGHBOURS)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray(components == sizes.argmax())
