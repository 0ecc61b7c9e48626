"""The names that can be chosen are known in one place, without what they name."""

import pytest

from resflow import InvalidInputError, known
from resflow.data import catalog, files
from resflow.losses import LOSSES, as_loss
from resflow.models import architectures, feature_maps


def test_names_are_those_of_what_they_name():
    assert tuple(feature_maps.ACTIVATIONS) == known.ACTIVATIONS
    assert tuple(architectures.ARCHITECTURES) == known.ARCHITECTURES
    assert tuple(catalog.DATASETS) == known.DATASETS
    assert tuple(files._FORMATS) == known.FILE_SUFFIXES
    assert tuple(LOSSES) == known.LOSSES


@pytest.mark.parametrize("check", [known.check_loss, as_loss])
def test_unknown_loss_is_answered_with_the_nearest(check):
    with pytest.raises(InvalidInputError, match="loss='logstic' is unknown: nearest is 'logistic'; choose one of"):
        check("logstic")
