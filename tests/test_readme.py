"""The README's promises: its example prints what it says, its links lead somewhere; test_guide runs its commands."""

import re
from pathlib import Path

from pages import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "library.md").read_text()
COMMANDS = commands(README)


def test_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_links_and_pictures_lead_to_files():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"demo", "test", "ui", "lab"} <= set(named) <= set(targets)


def test_continuous_integration_calls_the_same_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert "make lint" in script


def test_examples_print_bounds_in_order_and_a_verdict(capsys):
    names = {}
    bounds, ridge = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(bounds, names)
    gap, certificate, bound = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    assert gap <= certificate <= bound
    exec(ridge, names)
    assert capsys.readouterr().out.startswith("not stationary")


def test_guide_to_the_library_does_what_it_shows(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(example, {})
    said = capsys.readouterr().out
    assert "softmax loss, 3 outputs" in said
    assert "\nnot stationary" in said
    assert "It met its tolerance. gap -" in said
