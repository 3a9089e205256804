"""Hypothesis strategies for the geometry of scans."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomoseg import Grid

ORIENTATIONS = sorted(
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
)
# each order of the axes, mirrored differently
AXIS_ORDERS = ("RAS", "LSP", "AIR", "PLS", "SRA", "IPL")


def orientations() -> st.SearchStrategy[str]:
    """One of the 48 orientations, as three letters."""
    return st.sampled_from(ORIENTATIONS)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of any orientation, anisotropic and oblique."""
    shape = [draw(st.integers(2, 40)) for _ in range(3)]
    spacing = [draw(st.floats(0.2, 5)) for _ in range(3)]
    signs = [draw(st.sampled_from((-1, 1))) for _ in range(3)]
    axes = draw(st.permutations(range(3)))
    tilt = Rotation.from_euler("xyz", [draw(st.floats(-30, 30)) for _ in range(3)], degrees=True).as_matrix()
    affine: Any = np.eye(4)
    affine[:3, :3] = tilt @ (np.eye(3)[:, list(axes)] * signs * spacing)
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return Grid(shape, affine)
