"""A population is its members trained one by one, whatever the layout."""

import textwrap
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses.scalar import as_loss
from resflow.models.architectures import build_model
from resflow.models.feature_maps import feature_map
from resflow.models.residual_unit import trainable
from resflow.studies.measures import GapMeasure, ModelGapMeasure, StationarityMeasure
from resflow.training._layout import population_layout
from resflow.training.population import PopulationLayout, train_population
from resflow.training.train import TrainingOptions, train
from tests.new_process import python

M, N, D, K = 7, 60, 4, 6
rng = np.random.default_rng(0)
SETS = rng.standard_normal((2, N, D))
LABELS = np.sign(SETS[..., 0] + SETS[..., 1] ** 2 - 1 + 0.3 * rng.standard_normal((2, N)))
WHICH = np.array([0, 1, 1, 0, 1, 0, 0])
RATES = np.array([0.01, 0.003, 0.03, 0.02, 0.05, 0.001, 0.1])
FITS = [fit_linear_predictor(SETS[i], LABELS[i], loss="logistic") for i in range(2)]


def layout(chunk, chunks):
    return PopulationLayout((jax.devices()[0],), chunk, chunks)


@cache
def population(architecture="residual_unit", features="mlp"):
    @eqx.filter_jit
    @eqx.filter_vmap
    def build(seed, scale):
        model_key, feature_key, batch_key = jax.random.split(jax.random.key(seed), 3)
        f = feature_map(features, D, width=K, depth=1, activation="tanh", key=feature_key)
        return build_model(architecture, D, f, key=model_key, scale=scale), batch_key

    return build(jnp.arange(M), jnp.linspace(0.5, 1.5, M))


def one_by_one(models, keys, measures, **options):
    for i in range(len(keys)):
        model = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, models)
        chosen = TrainingOptions(**(options | {"learning_rate": float(RATES[i])}))
        X, y = SETS[WHICH[i]], LABELS[WHICH[i]]
        yield train(model, X, y, loss="logistic", options=chosen, key=keys[i], measure=measures[i])


@pytest.mark.parametrize(
    ("architecture", "features", "measure", "options"),
    [
        ("residual_unit", "mlp", StationarityMeasure, {}),
        ("residual_unit", "random_fourier", GapMeasure, {"batch_size": 8, "optimizer": "momentum"}),
        ("no_skip", "mlp", ModelGapMeasure, {"batch_size": 16}),
        ("output_skip", "mlp", ModelGapMeasure, {"optimizer": "nesterov"}),
    ],
)
@pytest.mark.parametrize("place", [layout(1, 3), layout(3, 2)], ids=["one by one", "side by side"])
def test_members_are_what_they_would_be_alone(architecture, features, measure, options, place):
    models, keys = population(architecture, features)
    measures = [measure.against(FITS[which], "logistic") for which in WHICH]
    options = {"steps": 120, "log_every": 50} | options
    together = train_population(
        models,
        SETS,
        LABELS,
        loss="logistic",
        options=TrainingOptions(**options),
        keys=keys,
        learning_rates=RATES,
        measure=measures,
        data_sets=WHICH,
        layout=place,
    )
    for i, alone in enumerate(one_by_one(models, keys, measures, **options)):
        member = together.member(i)
        assert member.diverged_at is None
        assert member.history.keys() == alone.history.keys()
        np.testing.assert_array_equal(member.history["step"], [0, 50, 100, 120])
        for name in ("objective", "linear_predictor_gap", "gap_certificate", "lambda_min"):
            if name in alone.history:
                np.testing.assert_allclose(member.history[name], alone.history[name], rtol=1e-10, err_msg=name)
        ours, theirs = (jax.tree.leaves(eqx.filter(model, eqx.is_array)) for model in (member.model, alone.model))
        for leaf, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(leaf, expected, rtol=1e-9, atol=1e-12)


def check_exact_members():
    models, keys = population()
    measures = [GapMeasure.against(FITS[which], "logistic") for which in WHICH]
    options = {"steps": 400, "log_every": 100, "optimizer": "adam"}
    together = train_population(
        models,
        SETS,
        LABELS,
        loss="logistic",
        options=TrainingOptions(**options),
        keys=keys,
        learning_rates=RATES,
        measure=measures,
        data_sets=WHICH,
    )
    assert together.layout.chunk == 1
    for i, alone in enumerate(one_by_one(models, keys, measures, **options)):
        for name, column in alone.history.items():
            np.testing.assert_array_equal(together.member(i).history[name], column, err_msg=name)


def test_exact_members_are_bit_for_bit_what_they_would_be_alone_however_chaotic():
    """As compiled by default, in a process of its own: without optimisation XLA rounds two programs differently."""
    script = """
        import jax
        jax.config.update("jax_enable_x64", True)
        from tests.test_population import check_exact_members
        check_exact_members()
    """
    python("-c", textwrap.dedent(script), XLA_FLAGS=None)


@pytest.fixture(scope="module")
def diverging():
    """Members of which every second has a learning rate that makes it diverge, and their blocks."""
    models, keys = population()
    rates = np.where(np.arange(M) % 2 == 1, 300.0, 0.01)
    seen = []
    result = train_population(
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
        np.testing.assert_array_equal(block.models.w, result.models.w[rows.start : rows.stop])


def test_frame_holds_every_history_below_the_other(diverging):
    result, _ = diverging
    frame = result.frame()
    assert list(frame) == ["member", "step", "objective"]
    for i, rows in frame.groupby("member"):
        np.testing.assert_array_equal(rows["objective"], result.member(i).history["objective"])


@pytest.mark.parametrize("count", [1, 5, 64, 511, 512])
@pytest.mark.parametrize("n", [40, 4000])
def test_layout_has_room_for_all_and_wastes_little(count, n):
    f = feature_map("mlp", D, width=64, key=jax.random.key(0))
    model = build_model("residual_unit", D, f, key=jax.random.key(0))
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
    return train_population(arguments.pop("models"), arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": RATES[:3]}, r"learning_rates has shape \(3,\), but must be \(7,\)"),
        ({"learning_rates": -RATES}, "learning_rates has -0.01 for member 0: every one must be a positive"),
        ({"learning_rates": RATES, "options": TrainingOptions(optimizer=optax.sgd(0.1))}, "an optimiser by name"),
        ({"measure": [GapMeasure.against(FITS[0], "logistic")]}, "measure has 1 entries, but must be one for all"),
        ({"options": TrainingOptions(batch_size=61)}, "batch_size=61 must be at most the number of training samples"),
        ({"data_sets": WHICH}, r"X has shape \(60, 4\), and data_sets is given"),
        ({"X": SETS, "y": LABELS}, r"X has shape \(2, 60, 4\), and data_sets is not given"),
        ({"X": SETS, "y": LABELS, "data_sets": WHICH[:2]}, r"data_sets has arrays with \[\(2,\)\] in front"),
        ({"keys": jax.random.split(jax.random.key(0), 5)}, r"models has arrays with \[\(7,\)\] in front"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_does_not_fit_together_gets_one_clear_line(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        train_with(**changes)
