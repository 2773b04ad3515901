"""Erasure codes over predictions: how coded queries are made, who answers them, how predictions are decoded.

Start with `base.py`, what every code has; `linear.py` holds the paper's code.
"""

from parity.codes.base import TensorCode
from parity.codes.berrut import Approxifer
from parity.codes.concatenation import Concatenation
from parity.codes.conditional import Conditional
from parity.codes.curve import CurveCode
from parity.codes.invnet import InvNet
from parity.codes.learned import Learned
from parity.codes.linear import Addition, Exact, LinearCode, singular_submatrix
from parity.codes.nercc import Nercc
from parity.codes.thumbnails import Thumbnails

__all__ = [
    "Addition",
    "Approxifer",
    "Concatenation",
    "Conditional",
    "CurveCode",
    "Exact",
    "InvNet",
    "Learned",
    "LinearCode",
    "Nercc",
    "TensorCode",
    "Thumbnails",
    "singular_submatrix",
]
