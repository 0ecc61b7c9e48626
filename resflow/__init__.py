"""Did my residual network get stuck, and is it at least as good as a linear predictor?

Arrays in, values and evidence out. `fit_linear_predictor` and `gap_certificate` take the last layer's arrays of any
network from any framework; the rest builds and trains residual units in JAX. The mathematics is that of O. Shamir,
Are ResNets Provably Better than Linear Predictors?, NeurIPS 2018, arXiv:1804.06739.
"""

from resflow.certificates.deep import DeepGapCertificate, deep_gap_certificate
from resflow.certificates.gap import GapCertificate, HeldOutGap, gap_certificate, held_out_gap
from resflow.certificates.vector import VectorGapCertificate, vector_gap_certificate
from resflow.data.catalog import check_dataset_name, load_dataset, teacher
from resflow.data.dataset import Dataset, Standardization
from resflow.errors import InvalidInputError
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.linear.vector import VectorLinearFit, fit_vector_linear_predictor
from resflow.losses.scalar import Logistic, Loss, PseudoHuber, Squared
from resflow.losses.vector import MultiOutputSquared, Softmax, VectorLoss, one_hot
from resflow.models.architectures import ARCHITECTURES, build_model
from resflow.models.deep_network import DeepResidualNetwork, deep_residual_network
from resflow.models.feature_maps import ParametricFeatureMap, feature_map, flax_feature_map
from resflow.models.residual_unit import (
    NoSkipNetwork,
    OutputSkipNetwork,
    ResidualUnit,
    no_skip,
    output_skip,
    residual_unit,
)
from resflow.models.vector_unit import VectorResidualUnit, vector_output
from resflow.search.objectives import MeanLoss
from resflow.spectrum.lanczos import HessianEigenvalue, smallest_hessian_eigenvalue
from resflow.spectrum.partial import PartialSpectrum, partial_spectrum
from resflow.spectrum.smallest_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.spectrum.vector import VectorSpectrum, vector_partial_spectrum
from resflow.stationarity.any_model import analyze_model
from resflow.stationarity.report import StationarityReport, analyze_point
from resflow.studies.measures import (
    Checkpoints,
    DeepGapMeasure,
    GapMeasure,
    ModelGapMeasure,
    StationarityMeasure,
    VectorGapMeasure,
)
from resflow.studies.population_problem import PopulationProblem, population_outcomes, population_problem
from resflow.training.population import PopulationResult, one_device_per_core, train_population
from resflow.training.train import TrainingOptions, TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "Checkpoints",
    "Dataset",
    "DeepGapCertificate",
    "DeepGapMeasure",
    "DeepResidualNetwork",
    "GapCertificate",
    "GapMeasure",
    "HeldOutGap",
    "HessianEigenvalue",
    "InvalidInputError",
    "LinearFit",
    "Logistic",
    "Loss",
    "MeanLoss",
    "ModelGapMeasure",
    "MultiOutputSquared",
    "NoSkipNetwork",
    "OutputSkipNetwork",
    "ParametricFeatureMap",
    "PartialSpectrum",
    "PopulationProblem",
    "PopulationResult",
    "PseudoHuber",
    "ResidualUnit",
    "SmallestEigenvalue",
    "Softmax",
    "Squared",
    "Standardization",
    "StationarityMeasure",
    "StationarityReport",
    "TrainResult",
    "TrainingOptions",
    "VectorGapCertificate",
    "VectorGapMeasure",
    "VectorLinearFit",
    "VectorLoss",
    "VectorResidualUnit",
    "VectorSpectrum",
    "analyze_model",
    "analyze_point",
    "build_model",
    "check_dataset_name",
    "deep_gap_certificate",
    "deep_residual_network",
    "feature_map",
    "fit_linear_predictor",
    "fit_vector_linear_predictor",
    "flax_feature_map",
    "gap_certificate",
    "held_out_gap",
    "load_dataset",
    "no_skip",
    "one_device_per_core",
    "one_hot",
    "output_skip",
    "partial_spectrum",
    "population_outcomes",
    "population_problem",
    "residual_unit",
    "smallest_hessian_eigenvalue",
    "smallest_partial_eigenvalue",
    "teacher",
    "train",
    "train_population",
    "vector_gap_certificate",
    "vector_output",
    "vector_partial_spectrum",
]
