"""The unit in which tolerances are counted, as other processors and BLAS libraries round the last digits otherwise.

A sum of n products differs from another order of it by at most n · EPS times the sum of their absolute values, and
mostly by √n times that. Tests allow the former, or more where the claim needs no more digits.
"""

import numpy as np

__all__ = ["EPS"]

EPS = float(np.finfo(np.float64).eps)
