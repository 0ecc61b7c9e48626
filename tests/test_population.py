"""A population is its members trained one by one, whatever the layout."""

import textwrap
from functools import cache, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resflow
from resflow import GapMeasure, InvalidInputError, StationarityMeasure, TrainingOptions
from resflow.losses import as_loss
from resflow.models.residual_unit import trainable
from resflow.training._layout import PopulationLayout, population_layout
from resflow.training.population import measured_population
from tests.new_process import python

M, N, D, K = 7, 60, 4, 6
rng = np.random.default_rng(0)
SETS = rng.standard_normal((2, N, D))
SIGNAL = SETS[..., 0] + SETS[..., 1] ** 2 - 1
LABELS = np.sign(SIGNAL + 0.3 * rng.standard_normal((2, N)))
ROWS = np.stack([SIGNAL, np.sin(SETS[..., 2]), SETS[..., 3]], axis=-1) + 0.3 * rng.standard_normal((2, N, 3))
WHICH = np.array([0, 1, 1, 0, 1, 0, 0])
RATES = np.array([0.01, 0.003, 0.03, 0.02, 0.05, 0.001, 0.1])
GAP_ALONE = partial(GapMeasure.against, bounds=False)


class Problem(NamedTuple):
    """Two data sets of one shape with their best linear predictors."""

    loss: str
    X: np.ndarray
    y: np.ndarray
    outputs: int | None
    fits: list


def problem(loss, X, y, outputs=None):
    return Problem(
        loss, X, y, outputs, [resflow.fit_linear_predictor(*one, loss=loss) for one in zip(X, y, strict=True)]
    )


@cache
def of_loss(loss):
    if loss == "logistic":
        return problem(loss, SETS, LABELS)
    if loss == "squared":
        return problem(loss, SETS, ROWS, 3)
    splits = [resflow.load_dataset("wine:all").labelled_for(loss).split(0.25, seed=seed)[0] for seed in (0, 1)]
    sets = [resflow.Standardization.fit(part).apply(part).with_intercept() for part in splits]
    # of all 13 features the classes are separable, and no linear predictor is the best
    return problem(loss, np.stack([part.X[:, [1, 2, 8, 13]] for part in sets]), np.stack([part.y for part in sets]), 3)


def layout(chunk, chunks):
    return PopulationLayout((jax.devices()[0],), chunk, chunks)


@cache
def population(architecture="residual_unit", features="mlp", outputs=None):
    @eqx.filter_jit
    @eqx.filter_vmap
    def build(seed, scale):
        keys = resflow.random_keys(seed)
        f = resflow.feature_map(features, D, width=K, depth=1, activation="tanh", key=keys.features)
        return resflow.build_model(architecture, D, f, key=keys.model, scale=scale, outputs=outputs), keys.batches

    return build(jnp.arange(M), jnp.linspace(0.5, 1.5, M))


def together(given, models, keys, measures, y=None, **options):
    """All members at once, and its options for one member."""
    place = {name: options.pop(name) for name in ("layout", "exact") if name in options}
    return resflow.train_population(
        models,
        given.X,
        given.y if y is None else y,
        loss=given.loss,
        options=TrainingOptions(**options),
        keys=keys,
        learning_rates=RATES,
        measure=measures,
        data_sets=WHICH,
        **place,
    )


def one_by_one(given, models, keys, measures, **options):
    for i in range(len(keys)):
        model = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, models)
        chosen = TrainingOptions(**(options | {"learning_rate": float(RATES[i])}))
        X, y = given.X[WHICH[i]], given.y[WHICH[i]]
        yield resflow.train(model, X, y, loss=given.loss, options=chosen, key=keys[i], measure=measures[i])


@pytest.mark.parametrize(
    ("loss", "architecture", "features", "measure", "options"),
    [
        ("logistic", "residual_unit", "mlp", StationarityMeasure.against, {}),
        ("logistic", "residual_unit", "random_fourier", GapMeasure.against, {"batch_size": 8, "optimizer": "momentum"}),
        ("logistic", "no_skip", "mlp", GAP_ALONE, {"batch_size": 16}),
        ("logistic", "output_skip", "mlp", GAP_ALONE, {"optimizer": "nesterov"}),
        ("softmax", "residual_unit", "mlp", StationarityMeasure.against, {}),
        ("softmax", "output_skip", "mlp", GAP_ALONE, {"batch_size": 16}),
        ("squared", "residual_unit", "mlp", GapMeasure.against, {"batch_size": 8}),
    ],
)
@pytest.mark.parametrize("place", [layout(1, 3), layout(3, 2)], ids=["one by one", "side by side"])
def test_members_are_what_they_would_be_alone(loss, architecture, features, measure, options, place):
    given = of_loss(loss)
    models, keys = population(architecture, features, given.outputs)
    measures = [measure(given.fits[which], loss) for which in WHICH]
    options = {"steps": 120, "log_every": 50} | options
    result = together(given, models, keys, measures, layout=place, **options)
    for i, alone in enumerate(one_by_one(given, models, keys, measures, **options)):
        member = result.member(i)
        assert member.diverged_at is None
        assert member.history.keys() == alone.history.keys()
        np.testing.assert_array_equal(member.history["step"], [0, 50, 100, 120])
        for name in ("objective", "linear_predictor_gap", "gap_certificate", "lambda_min"):
            if name in alone.history:
                np.testing.assert_allclose(member.history[name], alone.history[name], rtol=1e-10, err_msg=name)
        ours, theirs = (jax.tree.leaves(eqx.filter(model, eqx.is_array)) for model in (member.model, alone.model))
        for leaf, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(leaf, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_last_points_are_measured_again_by_the_program_that_trained_them(exact, caplog):
    given = of_loss("logistic")
    models, keys = population()
    how = {"loss": "logistic", "options": TrainingOptions(steps=120, log_every=50), "data_sets": WHICH, "exact": exact}
    how["measure"] = [GapMeasure.against(given.fits[which], "logistic") for which in WHICH]
    result = resflow.train_population(models, given.X, given.y, keys=keys, **how)
    with jax.log_compiles():
        again = measured_population(result.models, given.X, given.y, **how)
    assert "advance_chunks" not in caplog.text
    assert again.keys() == result.history.keys()
    for name, column in again.items():
        np.testing.assert_array_equal(column, result.history[name][:, -1], err_msg=name)


def check_exact_members(loss):
    given = of_loss(loss)
    models, keys = population(outputs=given.outputs)
    measures = [GapMeasure.against(given.fits[which], loss) for which in WHICH]
    options = {"steps": 400, "log_every": 100, "optimizer": "adam"}
    result = together(given, models, keys, measures, exact=True, **options)
    assert result.layout.chunk == 1
    for i, alone in enumerate(one_by_one(given, models, keys, measures, **options)):
        member = result.member(i)
        assert member.history["objective"][-1] < member.history["objective"][0]
        for name, column in alone.history.items():
            np.testing.assert_array_equal(member.history[name], column, err_msg=name)
        for leaf, expected in zip(jax.tree.leaves(member.model), jax.tree.leaves(alone.model), strict=True):
            if eqx.is_array(leaf):
                np.testing.assert_array_equal(leaf, expected)


def test_exact_members_are_bit_for_bit_what_they_would_be_alone_however_chaotic():
    """As compiled by default, in a process of its own: without optimisation XLA rounds two programs differently."""
    script = """
        import jax
        jax.config.update("jax_enable_x64", True)
        from tests.test_population import check_exact_members
        for loss in ("logistic", "softmax", "squared"):
            check_exact_members(loss)
    """
    python("-c", textwrap.dedent(script), XLA_FLAGS=None)


@pytest.mark.parametrize(
    ("loss", "written"),
    [
        ("logistic", lambda y: (y + 1) / 2),
        ("logistic", lambda y: y > 0),
        ("softmax", lambda y: y.astype(int)),
        ("softmax", lambda y: np.eye(3)[y.astype(int)]),
        ("softmax", lambda y: np.eye(3, dtype=bool)[y.astype(int)]),
    ],
    ids=["0 and 1", "truth values", "whole numbers", "one-hot", "one-hot truth values"],
)
def test_labels_as_people_have_them_train_the_same_bits(loss, written):
    given = of_loss(loss)
    models, keys = population(outputs=given.outputs)
    options = {"steps": 20, "log_every": 10, "layout": layout(3, 3)}
    expected, found = (together(given, models, keys, None, y=y, **options) for y in (given.y, written(given.y)))
    np.testing.assert_array_equal(found.history["objective"], expected.history["objective"])
    np.testing.assert_array_equal(found.models.W, expected.models.W)
    assert (found.history["objective"][:, -1] < found.history["objective"][:, 0]).all()


@pytest.fixture(scope="module")
def diverging():
    """Members of which every second has a learning rate that makes it diverge, and their blocks."""
    models, keys = population()
    rates = np.where(np.arange(M) % 2 == 1, 300.0, 0.01)
    seen = []
    result = resflow.train_population(
        models,
        SETS[0],
        LABELS[0],
        loss="squared",
        options=TrainingOptions(steps=200, optimizer="sgd", log_every=40),
        keys=keys,
        learning_rates=rates,
        layout=layout(3, 1),
        on_block=lambda rows, block: seen.append((rows, block)),
    )
    return result, seen


def test_a_member_that_diverges_stops_marked_and_hurts_no_other(diverging):
    result, _ = diverging
    odd = np.arange(M) % 2 == 1
    assert (result.diverged_at[odd] > 0).all()
    assert (result.diverged_at[odd] < 200).all()
    assert (result.diverged_at[~odd] == -1).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(result.models, eqx.is_array)))
    for i in range(M):
        member = result.member(i)
        assert member.history["step"][-1] == (result.diverged_at[i] if odd[i] else 200)
        assert np.isfinite(member.history["objective"][:-1]).all()
        assert odd[i] or member.history["objective"][-1] < member.history["objective"][0]


def test_blocks_are_told_of_as_they_are_done_and_make_up_the_whole(diverging):
    result, seen = diverging
    assert [rows for rows, _ in seen] == [range(0, 3), range(3, 6), range(6, 7)]
    for rows, block in seen:
        np.testing.assert_array_equal(block.history["objective"], result.history["objective"][rows.start : rows.stop])
        np.testing.assert_array_equal(block.models.W, result.models.W[rows.start : rows.stop])


def test_frame_holds_every_history_below_the_other(diverging):
    result, _ = diverging
    frame = result.frame()
    assert list(frame) == ["member", "step", "objective"]
    for i, rows in frame.groupby("member"):
        np.testing.assert_array_equal(rows["objective"], result.member(i).history["objective"])


def test_frame_holds_the_weights_of_each_measurement_whole(diverging):
    result, _ = diverging
    weights = np.arange(result.reached.size * 3.0).reshape(*result.reached.shape, 3)
    frame = result._replace(history=result.history | {"weights": weights}).frame()
    for i, rows in frame.groupby("member"):
        np.testing.assert_array_equal(np.stack(rows["weights"]), weights[i][: len(rows)])


@pytest.mark.parametrize("count", [1, 5, 64, 511, 512])
@pytest.mark.parametrize("n", [40, 4000])
def test_layout_has_room_for_all_and_wastes_little(count, n):
    f = resflow.feature_map("mlp", D, width=64, key=jax.random.key(0))
    model = resflow.build_model("residual_unit", D, f, key=jax.random.key(0))
    models = jax.tree.map(lambda leaf: jnp.stack([leaf] * count) if eqx.is_array(leaf) else leaf, model)
    dynamic, rest = eqx.partition(models, trainable(models))
    frozen, static = eqx.partition(rest, eqx.is_array)
    X, y = jnp.zeros((n, D)), jnp.zeros(n)
    chosen = population_layout(dynamic, frozen, static, X, y, loss=as_loss("squared"), batch_size=None)
    calls = -(-count // chosen.block)
    assert chosen.devices == tuple(jax.devices())
    assert calls * chosen.block >= count
    assert calls * chosen.block - count < max(chosen.block, count // 4)
    assert chosen.chunk == (1 if count == 1 else chosen.chunk)
    # What a chunk of this size keeps: the features of n samples, more than once, in float64.
    assert chosen.chunk * n * 64 * 8 <= 6 << 20 or chosen.chunk == 1


def train_with(**changes):
    models, keys = population()
    arguments = {
        "models": models,
        "X": SETS[0],
        "y": LABELS[0],
        "loss": "logistic",
        "options": TrainingOptions(steps=1),
        "keys": keys,
    } | changes
    return resflow.train_population(arguments.pop("models"), arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": RATES[:3]}, r"learning_rates has shape \(3,\), but must be \(7,\)"),
        ({"learning_rates": -RATES}, "learning_rates has -0.01 for member 0: every one must be a positive"),
        ({"learning_rates": RATES, "options": TrainingOptions(optimizer=optax.sgd(0.1))}, "an optimiser by name"),
        (
            {"measure": [GapMeasure.against(of_loss("logistic").fits[0], "logistic")]},
            "measure has 1 entries, but must be one for all",
        ),
        ({"options": TrainingOptions(batch_size=61)}, "batch_size=61 must be at most the number of training samples"),
        ({"data_sets": WHICH}, r"X has shape \(60, 4\), and data_sets is given"),
        ({"X": SETS, "y": LABELS}, r"X has shape \(2, 60, 4\), and data_sets is not given"),
        ({"X": SETS, "y": LABELS, "data_sets": WHICH[:2]}, r"data_sets has shape \(2,\), but must be \(7,\)"),
        ({"X": SETS, "y": LABELS, "data_sets": WHICH + 1}, "data_sets has 2 for member .*, but must be .* from 0 to 1"),
        ({"X": SETS, "y": LABELS, "data_sets": WHICH - 1}, "data_sets has -1 for member"),
        ({"X": SETS, "y": LABELS, "data_sets": WHICH + 0.5}, r"data_sets has \d.5 for member 0"),
        ({"measure": [lambda M, X, y, i=i: {"a": jnp.float64(i)} for i in range(7)]}, "another kind for member 1 than"),
        ({"keys": jax.random.key(0)}, "must be an array of random keys"),
        ({"keys": list(range(7))}, "must be an array of random keys"),
        ({"keys": jax.random.split(jax.random.key(0), 5)}, r"models has arrays with \[\(7,\)\] in front"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_does_not_fit_together_gets_one_clear_line(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        train_with(**changes)


@pytest.mark.parametrize(("chunk", "chunks"), [(1, 7), (1, 2), (3, 1), (2, 4), (7, 1)])
def test_steps_of_all_members_are_told_of_on_the_way(chunk, chunks, monkeypatch):
    monkeypatch.setattr("resflow.progress.SECONDS", 0.0)
    monkeypatch.setattr("resflow.training._blocks.MOST_STEPS", 1)
    models, keys = population()
    options = {"loss": "logistic", "options": TrainingOptions(steps=20, log_every=5), "keys": keys}
    told = []

    def train(**more):
        return resflow.train_population(models, SETS[0], LABELS[0], layout=layout(chunk, chunks), **options, **more)

    watched, plain = train(progress=lambda *steps: told.append(steps)), train()
    for one, other in zip(*(jax.tree.leaves(eqx.filter(r[:4], eqx.is_array)) for r in (watched, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    done = [steps for steps, total in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 20 * M)
    assert len(set(done)) > 20
    assert {total for _, total in told} == {20 * M}


def test_several_devices_tell_of_one_training():
    program = """
        import equinox as eqx, jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_num_cpu_devices", 2)
        import resflow, resflow.progress as _progress
        _progress.SECONDS = 0.0
        X = np.random.default_rng(0).standard_normal((60, 4))
        y = np.sign(X[:, 0])

        @eqx.filter_vmap
        def build(seed):
            keys = resflow.random_keys(seed)
            f = resflow.feature_map("mlp", 4, width=6, key=keys.features)
            return resflow.build_model("residual_unit", 4, f, key=keys.model), keys.batches

        models, keys = build(jnp.arange(9))
        options = resflow.TrainingOptions(steps=50, log_every=10)
        told = []
        for progress in (lambda *steps: told.append(steps), False):
            result = resflow.train_population(
                models, X, y, loss="logistic", options=options, keys=keys, progress=progress
            )
            assert len(result.layout.devices) == 2
            last = result.history["objective"]
            assert progress is not False or np.array_equal(last, before)
            before = last
        done = [steps for steps, total in told]
        assert done == sorted(done) and done[0] < 50 and done[-1] == 450 and len(set(done)) > 20, told
    """
    python("-c", textwrap.dedent(program), XLA_FLAGS=None, JAX_COMPILATION_CACHE_DIR=None)
