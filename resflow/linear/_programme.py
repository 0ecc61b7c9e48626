"""The linear programme that looks for a hyperplane with no row on its wrong side, and what can be proved from it."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from resflow.linear._algebra import WELL_CONDITIONED, reciprocal_condition

__all__ = ["separating_plane"]

_ON_PLANE = 1e-6


def separating_plane(A: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, bool]:
    """max Σ t_i over 0 ≤ t_i ≤ min(1, zᵀa_i), z free: how many of the a_i a hyperplane can have strictly on one side.

    Scaling z makes every positive margin at least 1, so the maximum is a number of samples. The solver allows
    violations of 1e-7: what it finds is a direction to be judged, or weights to be made exact, and no proof.

    Returns:
        The direction z, None if all t_i = 0 or the solver does not say; which of the a_i are to lie on its plane; and
        whether it is proved that no plane separates them.
    """
    direction, on_plane = None, np.ones(len(A), dtype=bool)
    lengths = np.linalg.norm(A, axis=1)
    used = np.flatnonzero(lengths > 0)
    A = A[used] / lengths[used, None]
    sizes = np.linalg.norm(A, axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)
    A = A / sizes
    n, d = A.shape
    constraints = sparse.hstack([sparse.csr_array(-A), sparse.eye_array(n)], "csr")
    bounds = np.vstack([np.tile([-np.inf, np.inf], (d, 1)), np.tile([0.0, 1.0], (n, 1))])
    costs = np.concatenate([np.zeros(d), -np.ones(n)])
    outcome = linprog(costs, A_ub=constraints, b_ub=np.zeros(n), bounds=bounds, method="highs")
    if outcome.status != 0:
        return None, on_plane, False
    if round(-outcome.fun) > 0:
        z = outcome.x[:d]
        margins = A @ z
        direction = z / sizes
        on_plane[used] = margins <= _ON_PLANE * np.max(np.abs(margins))
    return direction, on_plane, _none_separates(A, -outcome.ineqlin.marginals)


def _none_separates(A: np.ndarray, beta: np.ndarray) -> bool:
    """Whether the dual weights, all at least 1, show that no plane separates: Σ β_i a_i = 0 with all β_i > 0.

    Rounded, the sum is not 0. What makes it so is the combination of the rows that lies in their own span.
    """
    if len(beta) == 0 or not (beta > 0.5).all():
        return False
    Q, R = np.linalg.qr(A)
    if Q.shape[1] < A.shape[1] or reciprocal_condition(R.T @ R) < WELL_CONDITIONED:
        return False
    repair = Q @ np.linalg.solve(R.T, A.T @ beta)
    return bool((np.abs(repair) <= 0.5 * beta).all())
