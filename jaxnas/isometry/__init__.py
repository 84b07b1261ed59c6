"""Dynamical isometry: initialisations, mean-field theory, and measured spectra of Jacobians."""

from jaxnas.isometry.initializers import BY_NAME, BlockKernels, BlockShape, Initialization
from jaxnas.isometry.spectrum import (
    Propagation,
    Spectrum,
    exact_spectrum,
    lanczos_spectrum,
    propagate,
)

__all__ = [
    "BY_NAME",
    "BlockKernels",
    "BlockShape",
    "Initialization",
    "Propagation",
    "Spectrum",
    "exact_spectrum",
    "lanczos_spectrum",
    "propagate",
]
