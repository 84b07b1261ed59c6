"""How the wiring of a network decides how it trains: paths, kernels, predictions, filters.

The published bound and filter (Chen et al., NeurIPS 2022, arXiv 2205.05662) stand beside what
works: exact kernels of infinitely wide networks, and the linearized training that they predict.
"""

from jaxnas.connectivity.bound import convergence_theorem, published_bound, published_kernel
from jaxnas.connectivity.cells import from_darts, from_nasbench101, from_nasbench201
from jaxnas.connectivity.convolutional import convolutional_kernels
from jaxnas.connectivity.dag import (
    Statistics,
    expected_depth_width,
    path_histogram,
    path_statistics,
    statistics,
)
from jaxnas.connectivity.filter import (
    deep_enough,
    half_radius,
    reserve_moderate,
    select,
    within,
)
from jaxnas.connectivity.inputs import input_gram, largest_cosine, unit_rows
from jaxnas.connectivity.linearized import (
    centered_one_hot,
    leave_one_out_loss,
    linearized_loss,
    predicted_steps_to,
)
from jaxnas.connectivity.recursion import kernels, over_wirings

__all__ = [
    "Statistics",
    "centered_one_hot",
    "convergence_theorem",
    "convolutional_kernels",
    "deep_enough",
    "expected_depth_width",
    "from_darts",
    "from_nasbench101",
    "from_nasbench201",
    "half_radius",
    "input_gram",
    "kernels",
    "largest_cosine",
    "leave_one_out_loss",
    "linearized_loss",
    "over_wirings",
    "path_histogram",
    "path_statistics",
    "predicted_steps_to",
    "published_bound",
    "published_kernel",
    "reserve_moderate",
    "select",
    "statistics",
    "unit_rows",
    "within",
]
