"""Trained points among a run's artifacts: built again bit by bit, or else said why not."""

import hashlib
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_notebooks import artifacts_of, in_project, make_project, new_run

import resflow
from resflow.errors import InvalidInputError
from resflow.models.pre_activation import OnBatches, PreActivationNetwork
from resflow.models.stored import arrays_of_model, described_model, rebuilt_model
from resflow.notebook import Trained, load_model, load_point, prepare
from resflow.workflow import names, stored_points

KEY = jax.random.key(3)
X = np.random.default_rng(0).standard_normal((12, 9))


def model_of(architecture, name="mlp", activation="tanh", **options):
    f = resflow.feature_map(name, 9, width=5, depth=2, activation=activation, key=KEY)
    return resflow.build_model(architecture, 9, f, key=KEY, **options)


def deep_network():
    maps = [resflow.feature_map("mlp", 4 if block else 9, width=3, key=KEY) for block in range(3)]
    return resflow.build_model("deep_residual_network", 9, maps, inner=4, key=KEY)


MODELS = {
    "unit": lambda: model_of("residual_unit"),
    "unit of three outputs": lambda: model_of("residual_unit", activation="gelu", outputs=3),
    "unit over a fixed map": lambda: model_of("residual_unit", "random_fourier"),
    "unit over images": lambda: model_of("residual_unit", "convolutional"),
    "output skip": lambda: model_of("output_skip", activation="relu"),
    "no skip": lambda: model_of("no_skip", outputs=2),
    "in float32": lambda: jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, model_of("residual_unit")
    ),
    "deep": deep_network,
    "pre-activation": lambda: OnBatches(PreActivationNetwork(9, 3, blocks=2, width=4, scale=0.5, key=KEY)),
    "pre-activation of one output": lambda: OnBatches(
        PreActivationNetwork(9, None, blocks=0, width=4, scale=1.0, key=KEY)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_of_the_zoo_is_built_again_with_the_same_bits(name):
    model = MODELS[name]()
    description = json.loads(json.dumps(described_model(model)))
    again = rebuilt_model(description, arrays_of_model(model))
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(again, eqx.is_array))] == [
        leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))
    ]
    np.testing.assert_array_equal(again(X), model(X))


def test_arrays_are_named_by_their_place_and_a_missing_or_misshapen_one_is_named():
    model = model_of("residual_unit")
    description, arrays = described_model(model), arrays_of_model(model)
    assert {"W", "V", "feature_map.layers[0].layers[1].weight"} < set(arrays)
    with pytest.raises(InvalidInputError, match=r"the array V is missing, but the model needs it of shape \(9, 5\)"):
        rebuilt_model(description, {name: array for name, array in arrays.items() if name != "V"})
    with pytest.raises(InvalidInputError, match=r"the array W is of shape \(8,\)"):
        rebuilt_model(description, arrays | {"W": np.zeros(8)})
    with pytest.raises(InvalidInputError, match="describes no model"):
        rebuilt_model({"architecture": "residual_unit"}, arrays)


@pytest.mark.parametrize(
    "model",
    [
        lambda X: X[:, 0],
        resflow.build_model("residual_unit", 9, eqx.nn.MLP(9, 5, 5, 1, key=KEY), key=KEY),
        resflow.build_model("no_skip", 9, lambda x: x**2, key=KEY),
        eqx.tree_at(lambda unit: unit.feature_map.layers[1], model_of("residual_unit"), eqx.nn.Lambda(jnp.arctan)),
        eqx.tree_at(lambda unit: unit.feature_map.layers[0].activation, model_of("residual_unit"), jnp.arctan),
    ],
)
def test_model_that_only_its_author_could_build_again_is_told_from_those_of_the_zoo(model):
    with pytest.raises(InvalidInputError, match="only models of theirs can be kept"):
        described_model(model)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with in_project(make_project(tmp_path_factory.mktemp("stored") / "project")):
        yield Path.cwd()


@pytest.fixture
def run(project):
    return new_run()


@pytest.fixture
def kept(run):
    """A run that kept a unit, and the unit."""
    data = prepare(run, "diabetes", target=None, loss="squared")
    fit = resflow.fit_linear_predictor(data.X, data.y, loss="squared")
    f = resflow.feature_map("mlp", data.X.shape[1], width=4, key=KEY)
    unit = resflow.build_model("residual_unit", data.X.shape[1], f, key=KEY)
    Trained(unit, fit, ["linear", "verdict"], 1e-3).keep(run)
    return run, unit, data


def file_of(run):
    return Path(run.artifact_folder) / "points" / "final.npz"


def test_point_of_a_run_comes_back_with_its_data(kept):
    run, unit, data = kept
    tags = run.stored.data.tags
    assert tags[names.STORED_POINT] == "points/final.npz"
    assert tags[names.STORED_POINT_DIGEST] == hashlib.sha256(file_of(run).read_bytes()).hexdigest()
    point = load_point(run.id)
    assert isinstance(point, resflow.Point)
    np.testing.assert_array_equal(point.X, data.X)
    np.testing.assert_array_equal(point.predictions, resflow.Point.of(unit, data.X, data.y, "squared").predictions)
    np.testing.assert_array_equal(load_model(run.id, client=run.client).W, unit.W)


def test_file_of_a_point_is_plain_numpy_without_pickle(kept):
    run, unit, _ = kept
    with np.load(file_of(run), allow_pickle=False) as file:
        np.testing.assert_array_equal(file["V"], unit.V)
        description = json.loads(str(file["description"]))
    assert description["data"]["dataset"] == "diabetes"
    assert description["evidence"] == ["linear", "verdict"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\1"), "the stored point changed: .* was recorded"),
        (lambda file: file.unlink(), "the stored point is gone"),
    ],
)
def test_file_that_changed_or_is_gone_is_not_taken_for_the_point(kept, spoil, said):
    run, _, _ = kept
    spoil(file_of(run))
    with pytest.raises(InvalidInputError, match=said):
        load_model(run.id)


def test_run_without_a_point_says_why(run, monkeypatch):
    with pytest.raises(InvalidInputError, match="no point is stored: the run recorded none"):
        load_model(run.id)
    fit = resflow.fit_linear_predictor(X, X[:, 0] + 1.0, loss="squared")
    Trained(lambda X: X[:, 0], fit).keep(run)
    with pytest.raises(InvalidInputError, match="no point is stored: model is a function that build_model"):
        load_model(run.id)
    monkeypatch.setattr(stored_points, "LARGEST", 100)
    Trained(model_of("residual_unit"), fit).keep(run)
    with pytest.raises(InvalidInputError, match="at most 0 are kept of a point"):
        load_model(run.id)
    assert artifacts_of(run.client, run.stored) == set()
    with pytest.raises(InvalidInputError, match="run_id='nobody' is no run of the store"):
        load_model("nobody")
    with pytest.raises(InvalidInputError, match="evidence='verdikt' is unknown: nearest is 'verdict'"):
        Trained(model_of("residual_unit"), fit, ["verdikt"])


def test_point_whose_run_did_not_say_where_its_data_is_from_has_a_model_all_the_same(run):
    fit = resflow.fit_linear_predictor(X, X[:, 0] + 1.0, loss="squared")
    Trained(model_of("residual_unit"), fit).keep(run)
    assert load_model(run.id).V.shape == (9, 5)
    with pytest.raises(InvalidInputError, match="did not record how its data was prepared"):
        load_point(run.id)


def test_full_disk_leaves_no_tag_of_a_point(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(run), "attach", full)
    fit = resflow.fit_linear_predictor(X, X[:, 0] + 1.0, loss="squared")
    with pytest.raises(OSError, match="No space"):
        Trained(model_of("residual_unit"), fit).keep(run)
    assert names.STORED_POINT not in run.stored.data.tags
