"""The report on a network by linear probes: networks built to deserve each advice get it, and numbers are right."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import resflow
from resflow import InvalidInputError
from resflow.losses import as_loss
from resflow.plots.depth import plot_probe_path
from resflow.probing.comparison import compare, resolution_factor
from resflow.probing.curvature import STEPS
from resflow.probing.linear_probe import _standardized

D, M, N = 6, 3, 1200
probe = partial(resflow.probe, hessian=None)


def network(seed, *, blocks=("add", "add"), n=N):
    """The stream of a network whose blocks do what they are named after, and labels that its last layer tells best."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    hs, readable = [rng.standard_normal((n, D))], []
    for block in blocks:
        h, U, V = hs[-1], fixed.standard_normal((D, D)), fixed.standard_normal((D, D)) / math.sqrt(D)
        added = {
            "add": 1.5 * np.tanh(h @ U) @ V,
            "dead": 0.0,
            "noise": 0.05 * rng.standard_normal(h.shape),
            "destroy": 0.05 * rng.standard_normal(h.shape) - 0.95 * h,
        }[block]
        if block == "add":
            readable.append(h + added)
        if block == "destroy":
            added = added - 0.05 * h  # only noise is left
        hs.append(h + added)
    p = 2.0 * readable[-1] @ fixed.standard_normal((D, M)) / math.sqrt(D)
    return hs, np.argmax(p + rng.gumbel(size=p.shape), axis=1)


def best_head(hs, y, ridge=1e-4):
    W = resflow.fit_linear_predictor(np.column_stack([hs[-1], np.ones(len(y))]), y, loss="softmax", ridge=ridge).W
    return W[:, :-1], W[:, -1]


def report_on(blocks, head=best_head, **options):
    (hs, y), held_out = network(1, blocks=blocks), network(2, blocks=blocks, n=3000)
    return probe(hs, head(hs, y), y, held_out=held_out, ridge=1e-3, **options)


def sentence(report, about):
    return " ".join(advice.sentence for advice in report.advice if advice.about == about)


def test_healthy_network_is_called_healthy():
    report = report_on(("add", "add"))
    assert report.findings == {"network": "below", "head": "finished", "blocks": "healthy"}
    assert list(report.table()["verdict"]) == ["", "adds", "adds"]
    assert report.layers[0].held_out_gap.value < -report.layers[0].held_out_gap.resolution


@pytest.mark.parametrize(("blocks", "place"), [(("dead", "add"), 1), (("add", "dead", "add"), 2)])
def test_block_that_changes_nothing_is_called_dead(blocks, place):
    report = report_on(blocks)
    assert report.layers[place].verdict == "dead"
    assert report.layers[place].held_out_gain.value == 0.0
    assert f"Dead: block {place} leaves every sample as it was" in sentence(report, "blocks")
    assert report.findings["network"] == "below"


def test_block_of_noise_adds_nothing_that_can_be_told_from_0():
    report = report_on(("add", "noise"))
    assert report.layers[2].verdict == "not told from 0"
    assert "Block 2 adds nothing that can be told from 0" in sentence(report, "blocks")


def test_head_trained_too_short_is_called_unfinished():
    report = report_on(("add", "add"), head=lambda hs, y: tuple(0.2 * part for part in best_head(hs, y)))
    assert report.findings["head"] == "unfinished"
    assert report.head.certificate >= report.head.gap.value > 0
    assert "Train it on" in sentence(report, "head")


def test_head_that_knows_its_samples_by_heart_is_called_overfitted():
    (hs, y), held_out = network(1, n=40), network(2, n=3000)
    report = probe(hs, best_head(hs, y, ridge=1e-7), y, held_out=held_out, ridge=0.1)
    assert report.findings["head"] == "overfitted"


def test_network_whose_block_destroys_what_it_read_is_above_its_own_input():
    report = report_on(("add", "destroy"))
    assert report.findings["network"] == "above"
    assert report.layers[2].verdict == "loses"
    assert "above the linear probe on its input h_0" in sentence(report, "network")


def test_network_that_is_a_linear_predictor_cannot_be_told_from_one():
    (hs, y), held_out = network(1, blocks=("add",)), network(2, blocks=("add",))
    report = probe([hs[1], hs[1]], best_head(hs, y), y, held_out=([held_out[0][1]] * 2, held_out[1]), ridge=1e-3)
    assert report.findings["network"] == "not told apart"


def test_without_held_out_samples_only_what_training_left_is_judged():
    hs, y = network(1)
    report = probe(hs, (np.zeros((M, D)), None), y, ridge=1e-3)
    assert report.findings == {"network": "above", "head": "unfinished", "blocks": "not judged"}
    assert set(report.table()["verdict"]) == {"", "not judged"}
    assert not any(name.startswith("held_out") for name in report.metrics())


def test_noise_alone_is_called_something_in_few_of_many_reports():
    """200 comparisons of two predictors that are as good as each other: at most 5 % expected, 12 % allowed."""
    told = 0
    for seed in range(200):
        a, b = np.random.default_rng(seed).exponential(size=(2, 50))
        told += compare(a, b, at_zero=1.0, factor=resolution_factor(50, 1)).sign != 0
    assert 0 < told <= 24


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_levels_are_those_of_scikit_learn_at_the_same_ridge(ridge):
    hs, y = network(3)
    hs = [1e3 + 40.0 * h for h in hs]  # neither shift nor scale counts
    held_out = [h[:600] for h in hs]
    report = probe(hs, (np.zeros((M, D)), None), y, held_out=(held_out, y[:600]), ridge=ridge)
    for h, layer in zip(hs, report.layers, strict=True):
        square = np.mean((h - h.mean(axis=0)) ** 2)
        peer = LogisticRegression(C=1.0 / (ridge * square * len(y)), tol=1e-10, max_iter=5000).fit(
            h - h.mean(axis=0), y
        )
        expected = log_loss(y, peer.predict_proba(h - h.mean(axis=0)))
        np.testing.assert_allclose(layer.probe.objective, expected, rtol=2e-6)
        expected = log_loss(y[:600], peer.predict_proba(h[:600] - h.mean(axis=0)))
        np.testing.assert_allclose(layer.held_out_objective, expected, rtol=2e-5)
        np.testing.assert_allclose(layer.gap.value, math.log(M) - layer.probe.objective, rtol=1e-12)


def test_differences_are_those_of_the_samples_losses():
    report = report_on(("add", "add"))
    (hs, y), (others, z) = network(1), network(2, n=3000)
    W, b = best_head(hs, y)
    loss = resflow.losses.as_loss("softmax")
    own, probe = loss.value(others[-1] @ W.T + b, z), loss.value(report.layers[1].probe.predictions(others[1]), z)
    gap = report.layers[1].held_out_gap
    np.testing.assert_allclose(gap.value, np.mean(own - probe), rtol=1e-10)
    np.testing.assert_allclose(gap.standard_error, np.std(own - probe, ddof=1) / math.sqrt(3000), rtol=1e-10)
    np.testing.assert_allclose(
        sum(layer.held_out_gain.value for layer in report.layers[1:]),
        report.layers[0].held_out_objective - report.head.held_out_objective,
        rtol=1e-9,
    )
    for layer in report.layers:
        assert layer.certificate >= layer.gap.value
    split = report.augmented
    np.testing.assert_allclose(split.gap.value - split.gain.value, report.layers[0].gap.value, rtol=1e-9)
    assert split.gap.value > -1e-3


def test_strength_is_the_best_of_all_in_cross_validation():
    """A layer of noise wants a strong ridge term, one that labels depend on a weak one."""
    hs, y = network(4, n=300)
    noise, labels = np.random.default_rng(0).standard_normal((300, 4)), np.where(y > 0, 1.0, -1.0)
    head = (np.zeros(D), None)
    report = probe([noise, hs[-1]], head, labels, loss="logistic")
    assert report.layers[0].probe.ridge >= 0.1 > 0.01 >= report.head.probe.ridge
    again = probe([noise, 1e-6 * hs[-1] + 7.0], head, labels, loss="logistic")
    assert [layer.probe.ridge for layer in again.layers] == [layer.probe.ridge for layer in report.layers]


def test_separable_representations_are_said_once():
    y = np.repeat(np.arange(M), 20)
    h = np.eye(M)[y] + 0.01 * np.random.default_rng(0).standard_normal((60, M))
    report = probe([h, h, h], (np.eye(M), None), y, ridge=0.01)
    assert str(report).count("linearly separable on h_0, h_1 and h_2") == 1
    with pytest.raises(InvalidInputError, match=r"^h_0: .*separable.*with ridge=0: pass a number above 0"):
        probe([h, h, h], (np.eye(M), None), y, ridge=0.0)


@pytest.mark.parametrize(("loss", "shape"), [("logistic", (D,)), ("squared", (1, D)), ("squared", (2, D))])
def test_heads_of_one_output_and_of_several_numbers(loss, shape):
    hs, _ = network(5)
    rng = np.random.default_rng(0)
    W = rng.standard_normal(shape)
    b = rng.standard_normal(shape[:-1])
    p = hs[-1] @ W.T + b + rng.standard_normal((N, *shape[:-1]))
    y = (p[..., 0] if shape == (1, D) else p) if loss == "squared" else p > 0
    report = probe(hs, (W, b), y, loss=loss, held_out=(hs, y), ridge=1e-4)
    assert report.layers[0].gap.sign < 0
    assert abs(report.head.gap.value) < 0.1
    assert report.augmented.width == 3 * D


def test_layers_of_other_widths_have_no_augmented_baseline():
    hs, y = network(6)
    report = probe([hs[0][:, :4], hs[1], hs[2]], best_head(hs, y), y, ridge=0.01)
    assert report.augmented is None
    assert list(report.table()["width"]) == [4, D, D]


def test_constant_layer_is_no_better_than_the_frequencies_of_classes():
    hs, y = network(7)
    dead = np.full_like(hs[0], 0.1)
    report = probe([dead, hs[-1]], best_head(hs, y), y, ridge=1e-3)
    shares = np.bincount(y) / N
    np.testing.assert_allclose(report.layers[0].probe.objective, -np.sum(shares * np.log(shares)), rtol=1e-6)


def _torch(array, *, dtype=None, grad=False):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    tensor = torch.as_tensor(array)
    return tensor.to(getattr(torch, dtype)).requires_grad_(grad) if dtype else tensor


@pytest.mark.parametrize(
    "given",
    [
        jnp.asarray,
        np.ndarray.tolist,
        lambda a: pd.DataFrame(a) if a.ndim == 2 else a,
        lambda a: jnp.asarray(a, jnp.bfloat16) if a.dtype.kind == "f" else a,
        _torch,
        lambda a: _torch(a, dtype="bfloat16", grad=True) if a.dtype.kind == "f" else _torch(a),
    ],
    ids=["jax", "lists", "frames", "jax bfloat16", "torch", "torch bfloat16"],
)
@pytest.mark.usefixtures("unchecked_types")
def test_whatever_holds_the_same_numbers_gives_the_same_report(given):
    hs, y = network(8, n=300)
    hs = [np.round(8 * h) / 8 for h in hs]  # which bfloat16 holds
    W, b = (np.round(4 * part) / 4 for part in best_head(hs, y))
    hs = [np.clip(h, -7.875, 7.875) for h in hs]
    expected = probe(hs, (W, b), y, held_out=(hs, y), ridge=0.01)
    layers = [given(h) for h in hs]
    found = probe(layers, (given(W), given(b)), given(y), held_out=(layers, given(y)), ridge=0.01)
    assert found.metrics() == expected.metrics()
    assert str(found) == str(expected)


def dense_hessian(hs, head, y, loss):
    """Of the mean loss in head and V, p = W(h + V f) + b at V = 1, by automatic differentiation; and the gradient."""
    before, f = hs[-2], hs[-1] - hs[-2]
    weights = [part for part in head if part is not None]
    flat, unravel = ravel_pytree([*map(jnp.asarray, weights), jnp.eye(before.shape[1])])

    def objective(flat):
        W, *bias, V = unravel(flat)
        p = (before + f @ V.T) @ W.T + sum(bias)
        return jnp.mean(as_loss(loss).value(p, y))

    return np.linalg.eigvalsh(jax.jit(jax.hessian(objective))(flat)), np.linalg.norm(jax.grad(objective)(flat))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("loss", "m"), [("softmax", 3), ("squared", 2), ("squared", None), ("logistic", None)])
def test_curvature_of_the_last_block_is_that_of_the_dense_hessian(loss, m, bias):
    rng = np.random.default_rng(0)
    hs, n = [rng.standard_normal((60, 4)) for _ in range(2)], 60
    shape = () if m is None else (m,)
    head = (rng.standard_normal((*shape, 4)), rng.standard_normal(shape) if bias else None)
    y = {"softmax": np.arange(n) % 3, "logistic": np.where(np.arange(n) % 3, 1.0, -1.0)}.get(loss)
    y = rng.standard_normal((n, *shape)) if y is None else y
    found = probe(hs, head, y, loss=loss, ridge=0.1, hessian="last block").curvature
    eigenvalues, slope = dense_hessian(hs, head, jnp.asarray(y), loss)
    np.testing.assert_allclose(found.lambda_min, eigenvalues[0], rtol=1e-9)
    np.testing.assert_allclose(found.grad_norm, slope, rtol=1e-10)
    assert found.lambda_min_lower <= eigenvalues[0] + found.rounding
    assert found.converged
    assert found.parameters == len(eigenvalues)
    assert found.lambda_min_residual < 1e-7 * eigenvalues[-1]


def stuck(n=200):
    """The stream of a network at a strict saddle: what its block leaves tells nothing of y, which its input does."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n, 3))
    y = h @ [1.0, -1.0, 0.5] + 0.1 * rng.standard_normal(n)
    seen = np.column_stack([y, np.ones(n)])
    noise = rng.standard_normal((n, 3))
    noise -= seen @ np.linalg.lstsq(seen, noise, rcond=None)[0]
    return [h, noise], (np.zeros(3), np.asarray(y.mean())), y


def test_network_at_a_saddle_above_its_own_input_is_told_where_it_leads_down():
    hs, head, y = stuck()
    report = probe(hs, head, y, loss="squared", ridge=1e-3, hessian="last block")
    found = report.curvature
    assert report.findings["network"] == "above"
    assert report.findings["curvature"] == "saddle"
    assert found.grad_norm < 1e-12
    assert found.lambda_min < -0.1
    assert "This direction leads down" in sentence(report, "curvature")
    before, f = hs[0], hs[1] - hs[0]
    W, b, V = head[0] + found.step * found.direction["W"], head[1], np.eye(3) + found.step * found.direction["V"]
    p = (before + f @ V.T) @ W + b + found.step * found.direction["b"]
    np.testing.assert_allclose(report.objective - np.mean((p - y) ** 2) / 2, found.fall, rtol=1e-9)
    assert found.fall > 0.01
    metrics, table = report.metrics(), report.table()
    assert metrics["curvature/lambda_min"] == table["lambda_min"].iloc[-1] == found.lambda_min
    assert f"last block: {found}" in str(report)


def test_random_networks_are_near_no_saddle():
    """Their λ_min is negative, and its direction may well lead further down than −∇F, but so do a few small steps."""
    above = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        h, (A, B) = rng.standard_normal((200, 4)), rng.standard_normal((2, 4, 4))
        y = np.sign(h @ rng.standard_normal(4) + rng.standard_normal(200))
        hs, head = [h, h + np.tanh(h @ A) @ B], (rng.standard_normal(4), 0.0)
        report = probe(hs, head, y, loss="logistic", ridge=0.01, hessian="last block")
        assert report.curvature.grad_norm > 0.1
        above += report.findings["curvature"] == "not stationary"
        assert report.findings["curvature"] != "saddle"
    assert above > 5


def test_labels_as_a_column_are_those_of_a_head_with_one_row():
    rng = np.random.default_rng(0)
    hs, y = [rng.standard_normal((50, 4)) for _ in range(2)], rng.standard_normal((50, 1))
    column, plain = (
        probe(hs, (np.ones((1, 4)), np.zeros(1)), each, loss="squared", ridge=0.1) for each in (y, y[:, 0])
    )
    assert column.objective == plain.objective
    assert column.head.gap == plain.head.gap


@pytest.mark.parametrize("away", [1e-3, 3.0])
def test_network_whose_slope_leads_further_down_is_on_its_way_and_at_no_saddle(away):
    hs, (W, b), y = stuck()
    report = probe(hs, (W, b + away), y, loss="squared", ridge=1e-3, hessian="last block")
    found = report.curvature
    assert found.sign == -1
    assert report.findings["curvature"] == ("saddle" if away < 1 else "not stationary")
    steps = [t for t in STEPS if t > 0]
    slope_W, slope_b = (b + away - y) @ hs[1] / len(y), float(np.mean(b + away - y))
    size = np.hypot(np.linalg.norm(slope_W), slope_b)
    np.testing.assert_allclose(found.grad_norm, size, rtol=1e-10)
    level = lambda t: np.mean((hs[1] @ (-t * slope_W / size) + b + away - t * slope_b / size - y) ** 2) / 2  # noqa: E731
    np.testing.assert_allclose(found.grad_fall, max(min(level(0.0) - level(t), t * size) for t in steps), rtol=1e-9)
    assert (found.grad_fall > found.fall) == (away > 1)
    assert ("Train it on" in sentence(report, "curvature")) == (away > 1)


def test_block_and_head_that_training_finished_have_no_direction_that_curves_down():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((100, 3))
    features, V = np.tanh(rng.standard_normal((100, 4))), rng.standard_normal((3, 4))
    at = resflow.Point(rng.standard_normal(3), V, features, X, X[:, 0] ** 2, "squared")
    end = resflow.solve(at, epsilon=1e-11, fit=resflow.fit_linear_predictor(X, at.y, loss="squared")).point
    hs = [X, X + end.features @ end.V.T]
    report = probe(hs, (end.W, None), at.y, loss="squared", ridge=1e-6, hessian="last block")
    assert report.findings["curvature"] == "not negative"
    assert abs(report.curvature.lambda_min) < 1e-9


def test_path_goes_over_norms_as_fits_in_balls_do():
    (hs, y), held_out = network(3, n=300), network(4, n=200)
    report = probe(hs, best_head(hs, y), y, held_out=held_out, ridge=0.01, path=[0.01, 1.0, 0.1])
    table = report.path_table()
    assert list(table["ridge"]) == [1.0, 0.1, 0.01] * 3
    assert table["converged"].all()
    for block, rows in table.groupby("block"):
        assert (np.diff(rows["norm"]) > 0).all()
        assert (np.diff(rows["objective"]) < 0).all()
        last = report.layers[block]
        expected = [last.probe.objective, last.held_out_objective, last.gap.value]
        np.testing.assert_allclose(rows[["objective", "held_out_objective", "gap"]].iloc[-1], expected, rtol=1e-9)
    _, _, columns = _standardized(hs[1])
    for _, row in table[table["block"] == 1].iterrows():
        ball = resflow.fit_linear_predictor(columns, y, loss="softmax", max_norm=row["norm"])
        np.testing.assert_allclose(row["objective"], ball.objective, rtol=1e-5)
    levels = {"objective": report.objective, "held_out_objective": report.held_out_objective}
    figure = plot_probe_path(table, **levels, title="a")
    figure.draw_without_rendering()
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels("both") if label.get_text()]
    assert labels == [f"{float(label):g}" for label in labels] != []


HS, Y = network(9, n=30)
HEAD = (np.ones((M, D)), np.zeros(M))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"representations": HS[0]}, r"representations is a ndarray, but must be a list \[h_0, ..., h_L\]"),
        ({"representations": HS[:1]}, "representations has length 1, but must have at least 2"),
        ({"representations": [HS[0], HS[1][:9], HS[2]]}, r"representations\[1\] has shape \(9, 6\), but .* 30 samples"),
        ({"representations": [*HS[:2], HS[2] * np.nan]}, r"representations\[2\] has a value that is not finite"),
        ({"head": HEAD[0]}, r"head is a ndarray, but must be a pair \(W, b\)"),
        ({"head": (HEAD[0].T, HEAD[1])}, r"head\[0\] has shape \(6, 3\), .* must have shape \(m, 6\): transpose it"),
        ({"head": (HEAD[0], np.zeros(2))}, r"head\[1\] has shape \(2,\), but W has \(3, 6\)"),
        ({"y": Y + 1}, "y has the label 3, but the model has 3 outputs"),
        ({"y": Y[:-1]}, "y has shape .*30 samples"),
        ({"held_out": HS}, r"held_out is a list, but must be a pair \(\[h_0, ..., h_L\], y\)"),
        ({"held_out": (HS[:2], Y)}, r"held_out\[0\] has widths \[6, 6\], but representations have \[6, 6, 6\]"),
        ({"held_out": (HS, Y - 1)}, r"held_out\[1\]: y has the label -1"),
        ({"loss": "logistic"}, r"head\[0\] has shape \(3, 6\), but with the logistic loss"),
        ({"loss": "squared", "y": np.zeros(30)}, "y has shape .*, but the head has 3 outputs"),
        ({"ridge": -1.0}, "ridge=-1.0 must be 0, or from 1e-12 to 1e12"),
        ({"hessian": "network"}, "hessian='network' needs the network, not its arrays"),
        ({"hessian": "blok"}, "hessian='blok' is unknown: nearest is 'last block'"),
        (
            {"hessian": "last block", "representations": [HS[0], HS[1][:, :4], HS[2]]},
            "of one width, but they have 4 and 6 columns",
        ),
        ({"path": 0.1}, "path=0.1 must be a list of ridge strengths"),
        ({"path": []}, "path has no ridge strength"),
        ({"path": [0.1, 0.0]}, r"path\[1\]=0.0 must be from 1e-12 to 1e12"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_gets_one_line_that_names_it(changed, message):
    with pytest.raises(InvalidInputError, match=message) as raised:
        probe(**{"representations": HS, "head": HEAD, "y": Y} | changed)
    assert "\n" not in str(raised.value)


def test_nothing_rests_on_a_fit_that_did_not_converge(monkeypatch):
    def cut_off(*arguments, **options):
        return resflow.fit_linear_predictor(*arguments, **options, max_iterations=1)

    monkeypatch.setattr("resflow.probing.linear_probe.fit_linear_predictor", cut_off)
    report = report_on(("add", "add"))
    assert report.findings == {"fits": "unfinished"}
    assert not report.table()["converged"].any()
    assert set(report.table()["verdict"]) == {"", "not judged"}
    assert "(unfinished)" in str(report)


def test_report_prints_its_levels_and_its_advice():
    report = report_on(("add", "add"))
    text = str(report)
    assert repr(report) == text
    assert "probe on h_0" in text
    assert "probe on all blocks" in text
    assert all(advice.sentence in text for advice in report.advice)
    assert report.metrics()["held_out/head_gap"] == report.head.held_out_gap.value
    assert all(math.isfinite(value) for value in report.metrics().values())
