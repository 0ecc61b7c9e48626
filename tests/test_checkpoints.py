"""Training that is cut off goes on from where it was, to the same bits; another training does not."""

from itertools import count

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import resflow
from resflow import progress
from resflow.training import _checkpoints
from resflow.training._layout import PopulationLayout

N, D, STEPS = 60, 4, 400
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D))
Y = np.sign(X[:, 0] + X[:, 1] ** 2 - 1 + 0.3 * RNG.standard_normal(N))


class CutOffError(Exception):
    """In place of a signal that leaves a process no time."""


def unit(key):
    of_features, of_model = jax.random.split(key)
    f = resflow.feature_map("mlp", D, width=6, key=of_features)
    return resflow.build_model("residual_unit", D, f, key=of_model)


def one(progress=False, X=X, **options):
    """One model, measured every few steps."""
    options = resflow.TrainingOptions(**({"steps": STEPS, "log_every": 5, "batch_size": 16} | options))
    key = jax.random.key(0)
    result = resflow.train(unit(key), X, Y, loss="logistic", options=options, key=key, progress=progress)
    return eqx.filter(result.model, eqx.is_array), result.history


def several(progress=False, **options):
    """Seven models, two side by side, in four blocks."""
    options = resflow.TrainingOptions(**({"steps": STEPS, "log_every": 5, "batch_size": 16} | options))
    keys = jax.random.split(jax.random.key(0), 7)
    result = resflow.train_population(
        eqx.filter_vmap(unit)(keys), X, Y, loss="logistic", options=options, keys=keys, progress=progress,
        layout=PopulationLayout((jax.devices()[0],), 2, 1),
    )  # fmt: skip
    return eqx.filter(result.models, eqx.is_array), result.history, result.reached


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where states are kept after every tick."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setenv(_checkpoints.FOLDER, str(tmp_path / "kept"))
    monkeypatch.setenv(_checkpoints.SECONDS, "0")
    return tmp_path / "kept"


def in_new_process(monkeypatch, train, **options):
    """Train as a process does whose first training this is; how many steps were done when it began, and the result."""
    monkeypatch.setattr(_checkpoints, "_trainings", count())
    told = []
    return told, train(lambda done, total: told.append(done), **options)


def cut_off(monkeypatch, train, after, **options):
    """The same, ended when so many steps are done."""
    monkeypatch.setattr(_checkpoints, "_trainings", count())

    def end(done, total):
        if done >= after:
            raise CutOffError

    with pytest.raises(CutOffError):
        train(end, **options)


def assert_same_bits(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("train", "options", "total"),
    [
        (one, {}, STEPS),
        (one, {"batch_size": None, "optimizer": "momentum"}, STEPS),
        (several, {}, 7 * STEPS),
        (several, {"batch_size": None}, 7 * STEPS),
    ],
)
def test_cut_off_again_and_again_it_ends_with_the_same_bits(train, options, total, folder, monkeypatch):
    monkeypatch.delenv(_checkpoints.FOLDER)
    expected = train(**options)
    monkeypatch.setenv(_checkpoints.FOLDER, str(folder))
    for share in (0.2, 0.45, 0.8):
        cut_off(monkeypatch, train, share * total, **options)
    told, found = in_new_process(monkeypatch, train, **options)
    assert_same_bits(found, expected)
    assert 0 < told[0] < total
    assert len((folder / "resumed").read_text().split()) >= 3


@pytest.mark.parametrize("other", [{"learning_rate": 0.02}, {"steps": STEPS + 5}, {"X": X + 1e-9}, {"batch_size": 15}])
def test_another_training_begins_at_its_beginning(other, folder, monkeypatch):
    cut_off(monkeypatch, one, 0.5 * STEPS)
    told, _ = in_new_process(monkeypatch, one, **other)
    assert told[0] == 0


def test_second_training_of_a_process_is_not_taken_for_the_first(folder, monkeypatch):
    cut_off(monkeypatch, one, 0.5 * STEPS)
    told = []
    one(lambda done, total: told.append(done))
    assert told[0] == 0


def with_measure(progress=False, share=0.5, seed=0, optimizer=None):
    """One model, with a measure that holds a number, and an optimiser with a random key in its state."""
    rule = optax.chain(optax.add_noise(0.01, 0.5, key=jax.random.key(seed)), optax.sgd(0.1))
    options = resflow.TrainingOptions(steps=STEPS, log_every=5, optimizer=rule if optimizer is None else optimizer)
    key = jax.random.key(0)
    result = resflow.train(
        unit(key), X, Y, loss="logistic", options=options, key=key, progress=progress,
        measure=lambda model, X, y: {"share": share * model(X).mean()},
    )  # fmt: skip
    return eqx.filter(result.model, eqx.is_array), result.history


def test_state_with_random_keys_in_it_is_kept(folder, monkeypatch):
    monkeypatch.delenv(_checkpoints.FOLDER)
    expected = with_measure()
    monkeypatch.setenv(_checkpoints.FOLDER, str(folder))
    cut_off(monkeypatch, with_measure, 0.5 * STEPS)
    told, found = in_new_process(monkeypatch, with_measure)
    assert told[0] > 0
    assert_same_bits(found, expected)


@pytest.mark.parametrize("other", [{"share": 0.25}, {"optimizer": optax.sgd(0.2)}, {"seed": 1}])
def test_what_functions_hold_tells_trainings_apart(other, folder, monkeypatch):
    base = {"optimizer": optax.sgd(0.1)} if "optimizer" in other else {}
    cut_off(monkeypatch, with_measure, 0.5 * STEPS, **base)
    assert in_new_process(monkeypatch, with_measure, **(base | other))[0][0] == 0
    assert in_new_process(monkeypatch, with_measure, **base)[0][0] > 0


def test_seconds_that_are_no_number_get_one_clear_line(folder, monkeypatch):
    monkeypatch.setenv(_checkpoints.SECONDS, "soon")
    with pytest.raises(
        resflow.InvalidInputError, match="RESFLOW_CHECKPOINT_SECONDS='soon' must be a number of seconds"
    ):
        one()


HALF, NOTHING, BACKWARDS = slice(None, 500), slice(0), slice(None, None, -1)


@pytest.mark.parametrize("left", [HALF, NOTHING, BACKWARDS], ids=["half", "nothing", "backwards"])
def test_state_that_cannot_be_read_is_left_aside(left, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv(_checkpoints.FOLDER)
        expected = one()
    cut_off(monkeypatch, one, 0.5 * STEPS)
    (file,) = folder.glob("*.npz")
    file.write_bytes(file.read_bytes()[left])
    told, found = in_new_process(monkeypatch, one)
    assert told[0] == 0
    assert_same_bits(found, expected)


def test_training_goes_on_where_nothing_can_be_kept(folder, monkeypatch):
    folder.write_text("a file in place of the folder")
    expected = one()
    assert_same_bits(in_new_process(monkeypatch, one)[1], expected)


def test_nothing_is_kept_of_short_trainings_or_where_no_folder_is_named(folder, monkeypatch):
    monkeypatch.setenv(_checkpoints.SECONDS, "60")
    one()
    assert not folder.exists()
    monkeypatch.setenv(_checkpoints.SECONDS, "0")
    monkeypatch.delenv(_checkpoints.FOLDER)
    one()
    monkeypatch.setenv(_checkpoints.FOLDER, "")
    one()
    assert not folder.exists()


def test_less_than_an_interval_of_work_is_ever_without_a_copy(tmp_path, monkeypatch):
    clock, kept = [0.0], []
    monkeypatch.setattr(_checkpoints.time, "monotonic", lambda: clock[0])
    keep = _checkpoints.Checkpoints(tmp_path, "training", seconds=1.0)
    for tick in range(1, 31):  # every 0.4 s: the second after a copy is kept, as the third would be too late
        clock[0] = 0.4 * tick
        keep.reached({"w": np.ones(2)}, tick, last=1000)
        for file in tmp_path.iterdir():
            kept.append(clock[0])
            file.unlink()
    assert len(kept) == 15
    assert np.max(np.diff([0.0, *kept])) < 1.0
