"""Programs traced in another process are found again, and only where nothing that they depend on has changed.

All in processes of their own: in that of the tests the library's functions are wrapped to have types checked.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import resflow
from resflow.exported import FOLDER

PACKAGE = Path(resflow.__file__).parent

BEGIN = """
import functools, os, pathlib, sys
import jax
import jax.numpy as jnp
import numpy as np
traced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **about: traced.append(about.get("fun_name")) if event.endswith("jaxpr_trace_duration") else None
)
jax.config.update("jax_enable_x64", True)
import resflow
from resflow.exported import FOLDER, exported
from resflow.keys import _keys
from resflow.origins import described, pickled, sources

X = np.random.default_rng(0).standard_normal((40, 3))
y = np.where(X[:, 0] > 0.3, 1.0, -1.0)

def kept():
    return sorted(path.name for path in pathlib.Path(os.environ[FOLDER]).glob("*-trace"))

def as_new(program, **options):
    return exported(program.function, **options)

def bits(keys):
    return jax.random.key_data(keys.model).tolist()

def trained(feature_map=None, activation="tanh", loss="logistic", measured=True, **options):
    keys = resflow.random_keys(0)
    feature_map = feature_map or resflow.feature_map("mlp", 3, width=2, activation=activation, key=keys.features)
    unit = resflow.build_model("residual_unit", 3, feature_map, key=keys.model)
    fit = resflow.fit_linear_predictor(X, y, loss=loss, max_norm=2.0)
    measure = resflow.StationarityMeasure.against(fit, loss) if measured else None
    options = resflow.TrainingOptions(**{"steps": 6, "log_every": 2, "learning_rate": 0.1} | options)
    result = resflow.train(unit, X, y, loss=loss, options=options, key=keys.batches, measure=measure)
    return result, fit, {name: column.tolist() for name, column in result.history.items()}
"""

ANALYSED = """
result, fit, history = trained(activation="relu", batch_size=7)
point = resflow.Point.of(result.model, X, y, "logistic")
numbers = resflow.analyze(point, fit, epsilon=1e-3).metrics() | resflow.fit_augmented(point, fit).metrics()
again = {"_advance", "_factorized", "_decide", "_sum_on_device", "flat"} & {*traced}
print(repr([repr((history, numbers)), sorted(again)]))
"""


TRAINED = """
history = trained(measured=False)[2]
print(repr([history, sorted({"_advance", "flat"} & {*traced})]))
"""


def run(program, folder=None, package=PACKAGE, **variables):
    """What a new process says at the end of a program, as a Python literal."""
    environment = {name: value for name, value in os.environ.items() if name != FOLDER}
    environment |= {"PYTHONPATH": str(package.parent)} | variables | ({FOLDER: str(folder)} if folder else {})
    command = [sys.executable, "-c", BEGIN + program]
    done = subprocess.run(command, env=environment, cwd=package.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def kept(folder):
    return sorted(path.name for path in folder.glob("*-trace"))


@pytest.fixture
def folder(tmp_path):
    """The folder of programs."""
    place = tmp_path / "programs"
    place.mkdir()
    return place


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to be changed."""
    place = tmp_path / "project" / "resflow"
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    time.sleep(0.1)  # in the moment that a process begins it cannot be told whether a file changed before that
    return place


def test_second_process_traces_nothing_and_has_the_same_bits(folder):
    numbers, traced = run(ANALYSED)
    assert traced == ["_advance", "_decide", "_factorized", "_sum_on_device"]
    first, traced = run(ANALYSED, folder)
    assert (first, traced[-1]) == (numbers, "flat")
    assert len(names := kept(folder)) > 5
    assert run(ANALYSED, folder) == [numbers, []]
    assert kept(folder) == names


def test_changed_source_is_seen(folder, package):
    before, _ = run(TRAINED, folder, package)
    module = package / "training" / "train.py"
    text = module.read_text()
    assert '"adam": optax.adam,' in text
    module.write_text(text.replace('"adam": optax.adam,', '"adam": optax.sgd,'))
    time.sleep(0.1)
    after, traced = run(TRAINED, folder, package)
    assert "flat" in traced
    assert after != before
    assert after == run(TRAINED, None, package)[0]
    module.write_text(text)
    time.sleep(0.1)
    assert run(TRAINED, folder, package) == [before, []]


def test_nothing_is_kept_where_a_source_changed_after_it_may_have_been_imported(folder, package):
    change = f"pathlib.Path({str(package / 'losses.py')!r}).open('a').write('# more')"
    numbers, traced = run(change + TRAINED, folder, package)
    assert (numbers, kept(folder)) == (run(TRAINED)[0], [])
    assert "flat" not in traced


def test_everything_that_has_a_name_can_be_kept():
    assert run("""
from resflow.losses import as_loss
from resflow.models.feature_maps import ACTIVATIONS
from resflow.training.train import OPTIMIZERS, _task
import optax

def description(activation="tanh", loss="logistic", **options):
    keys = resflow.random_keys(0)
    unit = resflow.build_model(
        "residual_unit", 3, resflow.feature_map("mlp", 3, width=2, activation=activation, key=keys.features),
        key=keys.model,
    )
    options = resflow.TrainingOptions(**{"steps": 6, "learning_rate": 0.1} | options)
    return described(_task(unit, X, y, as_loss(loss), options, keys.batches, None).training)

cases = [
    *({"activation": name} for name in ACTIVATIONS if name != "tanh"),
    *({"optimizer": name} for name in OPTIMIZERS if name != "adam"), {},
    {"optimizer": optax.chain(optax.clip(0.1), optax.adamw(0.01))}, {"batch_size": 7}, {"loss": "squared"},
    {"loss": "pseudo_huber"}, {"loss": resflow.PseudoHuber(0.5)},
]
found = [description(**case) for case in cases]
print([None in found, found == [description(**case) for case in cases], len({*found}) == len(found) > 15])
""") == [False, True, True]  # fmt: skip


def test_file_that_was_cut_off_is_written_again(folder):
    assert run("""
key = bits(as_new(_keys)(3))
(name,) = kept()
file = pathlib.Path(os.environ[FOLDER], name)
whole = file.read_bytes()
same = []
for spoilt in (whole[: len(whole) // 2], b""):
    file.write_bytes(spoilt)
    same += [bits(as_new(_keys)(3)) == key, len(file.read_bytes()) > len(spoilt), kept() == [name]]
os.environ[FOLDER] += "/none"  # where nothing can be written
same.append(bits(as_new(_keys)(3)) == key)
del os.environ[FOLDER]
print([*same, bits(as_new(_keys)(3)) == key])
""", folder) == [True] * 8  # fmt: skip


def test_precision_and_settings_are_part_of_what_a_program_is_found_by(folder):
    assert run("""
counts = []
for x64 in (True, False):
    with jax.enable_x64(x64):
        as_new(_keys)(3)
        counts.append(len(kept()))
with jax.default_matmul_precision("float32"):
    as_new(_keys)(3)
counts.append(len(kept()))
as_new(_keys)(np.int32(3))
print([*counts, len(kept())])
""", folder) == [1, 2, 3, 4]  # fmt: skip


def test_inside_another_program_it_is_part_of_that(folder):
    assert run("""
inside = jax.jit(as_new(_keys))(3), jax.tree.map(lambda leaf: leaf[3], jax.vmap(as_new(_keys))(jnp.arange(4)))
with jax.disable_jit():
    eager = as_new(_keys)(3)
none = kept()
print([none, bits(inside[0]) == bits(inside[1]) == bits(eager) == bits(as_new(_keys)(3)), len(kept())])
""", folder) == [[], True, 1]  # fmt: skip


def test_code_of_a_user_is_traced_every_time(folder):
    program = """
import equinox as eqx
class Own(eqx.Module):
    def __call__(self, X):
        return SCALE * X[..., :2]
history = trained(feature_map=Own(), measured=False)[2]
print([history["objective"][-1], "_advance" in traced])
"""
    values = [run(program.replace("SCALE", scale), folder) for scale in ("1.0", "2.0", "2.0")]
    assert values[0][0] != values[1][0] == values[2][0]
    assert all(traced for _, traced in values)
    assert [name for name in kept(folder) if name.startswith(("_begin", "_advance"))] == []


def test_descriptions_name_code_and_hold_data():
    assert run("""
import optax
def within(scale):
    return lambda x: scale * x
pairs = [(1, 1.0), (1, True), ([1], (1,)), (np.arange(3), np.arange(3.0)), (jnp.tanh, jnp.sinh),
         (optax.adam(0.1), optax.adam(0.2)), (functools.partial(jnp.add, 1), functools.partial(jnp.add, 2))]
own = [within(2), functools.wraps(jnp.tanh)(within(2)), functools.partial(within, 2), jax.jit(within),
       jax.custom_jvp(functools.wraps(jnp.tanh)(within)), type("Own", (), {})(), optax.adam(within(2)), [within]]
text = "".join(["a", "b"])
print([
    described([text, text]) == described([text, "".join(["a", "b"])]),
    [described(value) != described(other) and described(value) == described(value) for value, other in pairs],
    [described(value) for value in own], described(optax.adam(0.1)) == described(optax.adam(0.1)),
    pickled(optax.adam(0.1)),
])
""") == [True, [True] * 7, [None] * 8, True, None]  # fmt: skip


def test_descriptions_are_the_same_in_every_process():
    program = """
import optax
unit = resflow.build_model("residual_unit", 2, resflow.feature_map("mlp", 2, width=2, key=jax.random.key(0)),
                           key=jax.random.key(1))
print(repr([described((unit, optax.adamw(0.1, mask={"a": True}), resflow.TrainingOptions(steps=3))), sources()]))
"""
    first, second = (run(program, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first == second
    assert None not in first
