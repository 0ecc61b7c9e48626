"""Mutants in groups: a hundred of each kind in the suite, as many as `--mutants` says by `make fuzz`."""

GROUP = 10


def pytest_generate_tests(metafunc):
    """Give every test that takes `seeds` all mutants, ten a test, so that a failure names the few that it may be."""
    if "seeds" in metafunc.fixturenames:
        starts = range(0, metafunc.config.getoption("mutants"), GROUP)
        metafunc.parametrize("seeds", [range(start, start + GROUP) for start in starts], ids=lambda seeds: seeds.start)
