"""Did my residual network get stuck, and is it at least as good as a linear predictor?

Arrays in, values and evidence out. A `Point` is made of the last layer's arrays of any network from any framework, or
of a model of this library; what is known of a point is a function of it. The mathematics is that of O. Shamir, Are
ResNets Provably Better than Linear Predictors?, NeurIPS 2018, arXiv:1804.06739.
"""

import lazy_loader

__version__ = "0.1.0"

# What there is, and where, is said in __init__.pyi; a module is imported when something of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
