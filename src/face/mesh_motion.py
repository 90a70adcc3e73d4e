"""Motion of the 68 iBUG points, spread over all 478 points of MediaPipe's mesh.

Every other point moves by a weighted mean of its neighbours on the mesh (the weights solve Laplace's equation there), so that lips, which
lie on either side of a hole, never pull at each other. The forehead's edge stays where it is.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Float64

from src.face.topology import (
    FACE_OVAL,
    IBUG68,
    NUM_LANDMARKS,
    NUM_MESH_POINTS,
    TESSELATION,
)

_LOWER_OVAL = {*FACE_OVAL[7:30].tolist()}  # from one ear over the chin to the other


def spread(moved: Float[np.ndarray, "t 68 d"]) -> Float64[np.ndarray, "t 478 d"]:
    """Displacements of all points of the mesh from those of the 68; a displacement of all by the same is not kept at the forehead."""
    return np.einsum("nk,tkd->tnd", _weights(), moved.astype(np.float64))


@cache
def _weights() -> Float64[np.ndarray, "478 68"]:
    """What each of the 68 points counts for each of the mesh's."""
    given = np.zeros((NUM_MESH_POINTS, len(IBUG68)))
    given[IBUG68, np.arange(len(IBUG68))] = 1
    fixed = np.union1d(IBUG68, [point for point in FACE_OVAL if point not in _LOWER_OVAL])
    free = np.setdiff1d(np.arange(NUM_MESH_POINTS), fixed)
    laplacian = _laplacian()
    given[free] = np.linalg.solve(laplacian[np.ix_(free, free)], -laplacian[np.ix_(free, fixed)] @ given[fixed])
    weights = np.zeros((NUM_LANDMARKS, len(IBUG68)))
    weights[:NUM_MESH_POINTS] = given  # the irises, which follow, do not move with the lids
    weights.setflags(write=False)
    return weights


def _laplacian() -> Float64[np.ndarray, "468 468"]:
    """Number of neighbours on the diagonal, -1 for each of them."""
    edges = TESSELATION[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    matrix = np.zeros((NUM_MESH_POINTS, NUM_MESH_POINTS))
    matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = -1
    matrix[np.diag_indices(NUM_MESH_POINTS)] = -matrix.sum(axis=1)
    return matrix
