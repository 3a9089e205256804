"""Scans of head and neck that the CT bundle was not trained on, and its organs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

NAME = "head_neck_ct_segmentation"
HELD_OUT = ("pt_201", "pt_202", "pt_204")  # of the cases that nothing was trained on
RIGHT, LEFT = 3, 4  # parotid glands
# AAPM TG-263
ROI_NAMES = {1: "Brainstem", 2: "SpinalCord", 3: "Parotid_R", 4: "Parotid_L", 5: "Bone_Mandible"}


def scan(data: Path, case: str) -> Any:
    return nib.load(data / "imagesTr" / f"{case}.nii.gz")


def middle(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The centre of a structure in mm."""
    return np.asarray(affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3])
