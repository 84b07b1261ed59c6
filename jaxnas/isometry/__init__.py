"""Dynamical isometry: initializations, mean-field theory, and measured spectra of Jacobians."""

from jaxnas.isometry.block import FixedBlock, calibrate, convolve
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
    "FixedBlock",
    "Initialization",
    "Propagation",
    "Spectrum",
    "calibrate",
    "convolve",
    "exact_spectrum",
    "lanczos_spectrum",
    "propagate",
]
