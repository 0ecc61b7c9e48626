"""Did my residual network get stuck, and is it at least as good as a linear predictor?

Arrays in, values and evidence out. `fit_linear_predictor` and `gap_certificate` take the last layer's arrays of any
network from any framework; the rest builds and trains residual units in JAX. The mathematics is that of O. Shamir,
Are ResNets Provably Better than Linear Predictors?, NeurIPS 2018, arXiv:1804.06739.
"""

__version__ = "0.1.0"
