"""The stored label maps are those that nnU-Net makes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.bundles import voxels
from support.nnunet.labels import PAIRS, STORED, make_labels, stored

MAX_SHARE = 0.0005  # of the foreground, for other versions of torch and other processors


def test_each_kind_has_labels() -> None:
    assert {path.name for path in STORED.iterdir()} == {stored(kind, scan).name for kind, scan in PAIRS}
    for kind, scan in PAIRS:
        assert np.sum(voxels(nib.load(stored(kind, scan))) > 0) > 800


@pytest.mark.exhaustive
def test_nnunet_makes_them_again(tmp_path: Path) -> None:
    make_labels(tmp_path)
    for kind, scan in PAIRS:
        made, kept = (voxels(nib.load(path)) for path in (stored(kind, scan, tmp_path), stored(kind, scan)))
        assert np.sum(made != kept) <= MAX_SHARE * np.sum(kept > 0)
