"""λ_min of a hundred classifiers too large to factorise, against SciPy's eigsh on products in NumPy.

Off by default: `make bench`, or this file alone. Each shape prints by how much the interval holds the eigenvalue.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh

import resflow
from resflow import Point
from tests.problems import point
from tests.test_large_classifiers import classifier

SHAPES = [
    (10, 210, 12),
    (50, 45, 8),
    (20, 150, 30),
    (3, 1_500, 4),
    (100, 64, 16),
    (10, 1_000, 20),
    (120, 120, 10),
    (40, 700, 6),
    (100, 500, 8),
    (100, 1_000, 5),
]
"""m, d, k, of orders md + min(m, d) k from 2,220 to 100,500."""
SEEDS = 10


def product_in_numpy(at: Point):
    """v ↦ ∇²F v of the softmax loss, without a line of the library's."""
    W, V, features, X = at.W, at.V, at.features, at.X
    (m, d), k, n = W.shape, V.shape[1], len(X)
    a = X + features @ V.T
    p = a @ W.T
    sigma = np.exp(p - p.max(axis=1, keepdims=True))
    sigma /= sigma.sum(axis=1, keepdims=True)
    R = (sigma - np.eye(m)[at.y]).T @ features / n

    def product(v):
        v = np.ravel(v)
        A, B = v[: m * d].reshape(m, d), v[m * d :].reshape(d, k)
        t = a @ A.T + (features @ B.T) @ W.T
        s = sigma * (t - np.sum(sigma * t, axis=1, keepdims=True)) / n
        return np.concatenate([(s.T @ a + R @ B.T).ravel(), (W.T @ (s.T @ features) + A.T @ R).ravel()])

    return LinearOperator((m * d + d * k,) * 2, matvec=product, dtype=float), np.linalg.norm(R, 2)


@pytest.mark.parametrize(("m", "d", "k"), SHAPES)
def test_interval_holds_the_eigenvalue_at_ten_classifiers_of_a_shape(m, d, k, benchmark):
    widths, excess, seconds = [], [], []
    for seed in range(SEEDS):
        at = classifier(seed, m, d, k, n=max(150, 2 * m))
        H, coupling = product_in_numpy(at)
        began = time.perf_counter()
        found = resflow.smallest_eigenvalue(at)
        seconds.append(time.perf_counter() - began)
        # From the vector found, which is quicker, and a random one that has a part in every direction.
        start = np.concatenate([np.ravel(part) for part in found.direction])
        start = start + 1e-3 * np.random.default_rng(seed).standard_normal(len(start)) / np.sqrt(len(start))
        values, vectors = eigsh(H, k=1, which="SA", tol=1e-6, ncv=40, v0=start)
        value, vector = values[0], vectors[:, 0]
        error = np.linalg.norm(H @ vector - value * vector)
        assert found.factorizations == 0
        assert abs(found.lambda_min_lower + coupling) <= 1e-10 * coupling
        assert found.lambda_min_lower - found.rounding <= value + error
        assert value - error <= found.lambda_min_upper + found.rounding
        excess.append((found.lambda_min_upper - value) / abs(value))
        widths.append((found.lambda_min_upper - found.lambda_min_lower) / abs(value))
    benchmark.extra_info.update({"excess": max(excess), "widths": widths, "seconds": seconds})
    spread = f"{np.median(widths):.2g} ({min(widths):.2g} to {max(widths):.2g})"
    print(
        f"\n{m, d, k}: order {m * d + min(m, d) * k}; upper end above eigsh by at most {max(excess):.1e} of |λ_min|, "
        f"interval {spread} times |λ_min| wide; {np.median(seconds):.2g} s a call"
    )
    benchmark.pedantic(lambda: None)


@pytest.mark.parametrize(("m", "d", "k"), SHAPES)
def test_ends_meet_where_every_mean_of_features_weighted_by_slopes_vanishes(m, d, k, benchmark):
    at = point(0, max(150, 2 * m), d, k, "softmax", m, gamma=0.0)
    found = resflow.smallest_eigenvalue(at)
    assert found.factorizations == 0
    assert abs(found.lambda_min_lower) <= found.rounding
    assert abs(found.lambda_min_upper) <= found.rounding
    print(f"\n{m, d, k}: [{found.lambda_min_lower:.1e}, {found.lambda_min_upper:.1e}] ± {found.rounding:.1e}")
    benchmark.pedantic(lambda: None)
