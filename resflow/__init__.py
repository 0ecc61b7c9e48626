"""Did my residual network get stuck, and is it at least as good as a linear predictor?

Arrays in, values and evidence out. A `Point` is made of the last layer's arrays of any network from any framework, or
of a model of this library; what is known of a point is a function of it. The mathematics is that of O. Shamir, Are
ResNets Provably Better than Linear Predictors?, NeurIPS 2018, arXiv:1804.06739.
"""

from resflow.certificates.augmented import fit_augmented
from resflow.certificates.certify import certify
from resflow.certificates.held_out import held_out_gap
from resflow.data.catalog import load_dataset
from resflow.data.dataset import Dataset, Standardization
from resflow.errors import InvalidInputError
from resflow.hessian.smallest_eigenvalue import smallest_eigenvalue
from resflow.hessian.spectrum import spectrum
from resflow.keys import random_keys
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Loss, PseudoHuber
from resflow.models.architectures import build_model
from resflow.models.feature_maps import ParametricFeatureMap, feature_map, flax_feature_map
from resflow.objectives import MeanLoss
from resflow.point import Point
from resflow.stationarity.analyze import analyze
from resflow.stationarity.escape import escape
from resflow.stationarity.find import find_stationary_points
from resflow.stationarity.solve import solve
from resflow.training.measures import Checkpoints, GapMeasure, StationarityMeasure
from resflow.training.population import one_device_per_core, train_population
from resflow.training.train import TrainingOptions, train

__version__ = "0.1.0"

__all__ = [
    "Checkpoints",
    "Dataset",
    "GapMeasure",
    "InvalidInputError",
    "Loss",
    "MeanLoss",
    "ParametricFeatureMap",
    "Point",
    "PseudoHuber",
    "Standardization",
    "StationarityMeasure",
    "TrainingOptions",
    "analyze",
    "build_model",
    "certify",
    "escape",
    "feature_map",
    "find_stationary_points",
    "fit_augmented",
    "fit_linear_predictor",
    "flax_feature_map",
    "held_out_gap",
    "load_dataset",
    "one_device_per_core",
    "random_keys",
    "smallest_eigenvalue",
    "solve",
    "spectrum",
    "train",
    "train_population",
]
