from .certificates.augmented import fit_augmented
from .certificates.certify import certify
from .certificates.held_out import held_out_gap
from .certificates.tangent import tangent_certificate
from .data.catalog import load_dataset
from .data.dataset import Dataset, Standardization
from .errors import InvalidInputError
from .hessian.smallest_eigenvalue import smallest_eigenvalue
from .hessian.spectrum import spectrum
from .keys import random_keys
from .linear.predictor import fit_linear_predictor
from .losses import Loss, PseudoHuber
from .models.architectures import build_model
from .models.feature_maps import ParametricFeatureMap, feature_map, flax_feature_map
from .objectives import MeanLoss
from .point import Point
from .probing.probe import probe
from .stationarity.analyze import analyze
from .stationarity.escape import escape
from .stationarity.find import find_stationary_points
from .stationarity.solve import solve
from .training.measures import Checkpoints, GapMeasure, StationarityMeasure
from .training.population import one_device_per_core, train_population
from .training.train import TrainingOptions, train

__version__: str

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
    "probe",
    "random_keys",
    "smallest_eigenvalue",
    "solve",
    "spectrum",
    "tangent_certificate",
    "train",
    "train_population",
]
