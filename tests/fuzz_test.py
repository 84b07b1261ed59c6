"""What the public door does with arguments that are something else: it works, or says so.

Each public callable is called with good arguments, of which one or two are replaced by something
wrong. Nothing but a `ValueError` of one line may come back.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import connectivity, correlation, datasets, gradients, search, spaces, wiring
from jaxnas.benchmarks import nasbench101, nasbench201, nasbench_macro
from jaxnas.proxies import aggregate
from jaxnas.spaces import dag_cnn, dag_mlp

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory):
    """What is taken for the name of a file becomes one here, and not in the clone."""
    with contextlib.chdir(tmp_path_factory.mktemp("files")):
        yield


SPACE = spaces.nasbench201(channels=2, cells=1)
MOBILE, DARTS = spaces.mobilenetv2(), spaces.darts(channels=2, layers=3)
WRONG = (
    *(None, "x", "", len, print, ["x", "y"], float("nan"), float("inf"), -float("inf")),
    *(10**30, -(10**30), -1, 0.5, (), [], {}, {"x": 1}, object(), True, b"x", 1j, [[1], [1, 2]]),
    *(np.array([]), np.array([len, None], object), np.array("x"), np.array([1.0, np.nan])),
    *(np.zeros((2, 0)), jaxnas.SearchSpace, SPACE),
    *(jaxnas.proxies.BY_NAME["naswot"], search.random_sampling([2, 2])),
)

KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones((3, 2))}
INPUTS, LABELS = jnp.arange(12.0).reshape(4, 3) / 12, jnp.array([0, 1, 0, 1])
BATCH = jaxnas.Batch(INPUTS, LABELS)
PIXELS = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
DATA = datasets.create("toy", (PIXELS, [0, 1, 0, 1]), (PIXELS, [0, 1, 0, 1]), ["a", "b"])
ARCHS = [[0, 1], [1, 0], [1, 1]]
CELL = [0, 1, 2, 3, 4, 0]
SCORES, ACCURACIES = [1.0, 2.0, 4.0], [3.0, 1.0, 2.0]
GRAM = jnp.array([[1.0, 0.5], [0.5, 1.0]])
STRATEGY = search.random_sampling([2, 2])


def network(params, inputs):
    """Return logits, whatever pytree of numbers the parameters are."""
    sums = sum(map(jnp.sum, jax.tree.leaves(params)))
    return jnp.stack([inputs.sum(-1) * sums, inputs.sum(-1)], -1)


def total(archs):
    return np.asarray(archs).sum(-1).astype(float)


def called(function):
    """Name the only argument of a function, whatever it calls it."""
    return lambda arch: function(arch)


def scored(**changed):
    """Make a scorer, and have it count."""
    return jaxnas.Scorer(**{name: each for name, each in changed.items() if name != "archs"})(
        changed["archs"]
    )


DOORS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "score": (
        jaxnas.score,
        {
            "apply_fn": network,
            "params": PARAMS,
            "batch": BATCH,
            "proxies": "grad_norm",
            "loss": None,
            "key": KEY,
        },
    ),
    "scorer": (
        scored,
        {
            **{"space": SPACE, "data": DATA, "by": "params", "batch_size": 2, "loss": None},
            **{"seeds": (0,), "store": None, "context": None, "plan": "eager"},
            **{"deduplicate": True, "progress": False, "archs": [CELL]},
        },
    ),
    "find": (
        jaxnas.find,
        {
            "scorer": jaxnas.Scorer(SPACE, DATA, "params", batch_size=2, progress=False),
            **{"strategy": "random", "evaluations": 1, "seed": 0, "caps": None, "at_once": 1},
        },
    ),
    "as_network": (jaxnas.as_network, {"model": network, "variables": PARAMS, "max_bytes": 2**20}),
    **{
        name: (make, {"channels": 4, "classes": 2, "colors": 1, "norm": "batch"})
        for name, make in {
            "nasbench101": spaces.nasbench101,
            "nasbench201": spaces.nasbench201,
            "darts": spaces.darts,
            "transnas": spaces.transnas,
        }.items()
    },
    **{
        name: (make, {"layout": "img32", "classes": 2, "colors": 1, "norm": "batch"})
        for name, make in {
            "mobilenetv2": spaces.mobilenetv2,
            "shufflenetv2": spaces.shufflenetv2,
        }.items()
    },
    "nasbench_macro": (spaces.nasbench_macro, {"classes": 2, "norm": "batch"}),
    "dag_mlp": (dag_mlp, {"module": None, "nodes": 3, "features": 4}),
    "dag_cnn": (dag_cnn, {"module": None, "nodes": 3, "shape": (4, 4, 1)}),
    "from_string": (SPACE.from_string, {"string": SPACE.to_string(CELL)}),
    **{
        f"{name} of {each.name}": (called(getattr(each, name)), {"arch": arch})
        for each, arch in (
            (SPACE, CELL),
            (MOBILE, [0] * len(MOBILE.num_choices)),
            (DARTS, [0] * len(DARTS.num_choices)),
            (dag_mlp(nodes=3), [2, 0, 1]),
        )
        for name in ("to_string", "is_connected", "representative")
    },
    "num_params": (SPACE.num_params, {"arch": CELL}),
    "random_sampling": (search.random_sampling, {"num_choices": [2, 2]}),
    "regularized_evolution": (
        search.regularized_evolution,
        {"num_choices": [2, 2], "population_size": 2, "tournament_size": 2},
    ),
    "local_search": (search.local_search, {"num_choices": [2, 2]}),
    "run": (
        search.run,
        {
            **{"strategy": STRATEGY, "score_fn": total, "key": KEY, "num_evaluations": 2},
            **{"keep": None, "jit": False},
        },
    ),
    "sample": (search.sample, {"key": KEY, "num_choices": [2, 2], "num": 2}),
    "sample_distinct": (search.sample_distinct, {"key": KEY, "num_choices": [2, 2], "num": 2}),
    "two_step": (
        search.two_step,
        {"candidates": ARCHS, "coarse_scores": SCORES, "fine_fn": total, "k": 2},
    ),
    "controls": (
        search.controls,
        {"key": KEY, "candidates": ARCHS, "num_params": [1, 2, 3], "fine_fn": total, "k": 2},
    ),
    "successive_halving": (
        search.successive_halving,
        {"candidates": ARCHS, "rungs": [search.Rung(total, 2)]},
    ),
    "rung": (
        lambda score_fn, keep: search.successive_halving(ARCHS, [search.Rung(score_fn, keep)]),
        {"score_fn": total, "keep": 2},
    ),
    "constrained_evolution": (
        search.constrained_evolution,
        {
            **{"num_choices": [2, 2, 2], "score_fn": total, "key": KEY, "legal": None},
            "options": search.EvolutionOptions(2, 2, 1, 1, 1),
        },
    ),
    "evolution options": (
        lambda **options: search.constrained_evolution(
            [2, 2, 2], total, key=KEY, options=search.EvolutionOptions(**options)
        ),
        {
            **{"population": 2, "generations": 1, "parents": 1, "mutations": 1, "crossovers": 1},
            "mutation_rate": 0.5,
        },
    ),
    "hybrid": (
        search.hybrid,
        {
            **{"candidates": ARCHS, "objective": lambda tau, log_mu: [1.0, 2.0, 3.0]},
            **{"feedback": total, "key": KEY, "num_evaluations": 1, "history": ()},
            "options": search.HybridOptions(probes=1),
        },
    ),
    "hybrid options": (
        lambda **options: search.hybrid(
            *(ARCHS, lambda *point: [1.0, 2.0, 3.0], total),
            key=KEY,
            num_evaluations=1,
            options=search.HybridOptions(**options),
        ),
        {
            **{"bounds": {"tau": (0.0, 1.0)}, "acquisition": "ei", "probes": 1, "exploited": 0},
            "growth": 1,
        },
    ),
    "prune": (
        search.prune,
        {"alive": [[True, True]], "score_fn": lambda alive: [1.0], "reserve": None},
    ),
    "knapsack": (
        search.knapsack,
        {"scores": [[1.0, 2.0]], "costs": [[1.0, 2.0]], "cap": 2.0, "fixed": 0.0},
    ),
    "pareto_front": (search.pareto_front, {"costs": SCORES, "scores": ACCURACIES}),
    "batch": (
        datasets.batch,
        {
            **{"dataset": DATA, "size": 2, "seed": 0, "image_size": 2, "class_balanced": True},
            "split": "train",
        },
    ),
    "load": (datasets.load, {"spec": "digits"}),
    "create": (
        datasets.create,
        {
            **{"name": "toy", "train": (PIXELS, [0, 1, 0, 1]), "test": (PIXELS, [0, 1, 0, 1])},
            **{"class_names": ["a", "b"], "moments": None},
        },
    ),
    "split": (
        lambda images, labels, moments: datasets.create(
            "toy", (images, labels), (PIXELS, [0, 1, 0, 1]), ["a", "b"], (moments, moments)
        ),
        {"images": PIXELS, "labels": [0, 1, 0, 1], "moments": [1.0, 1.0, 1.0]},
    ),
    "validate": (datasets.validate, {"dataset": DATA}),
    "resize": (datasets.resize, {"images": PIXELS, "size": 2}),
    "normalize": (datasets.normalize, {"dataset": DATA, "images": PIXELS}),
    **{
        function.__name__: (function, {"scores": SCORES, "accuracies": ACCURACIES})
        for function in (correlation.spearman, correlation.kendall)
    },
    "partial_spearman": (
        correlation.partial_spearman,
        {"scores": SCORES, "accuracies": ACCURACIES, "given": [1, 2, 3]},
    ),
    "bootstrap_interval": (
        correlation.bootstrap_interval,
        {
            **{"statistic": correlation.spearman, "scores": SCORES, "accuracies": ACCURACIES},
            **{"groups": None, "num_resamples": 2, "confidence": 0.9, "seed": 0},
        },
    ),
    "top_k_recall": (
        correlation.top_k_recall,
        {"scores": SCORES, "accuracies": ACCURACIES, "k": 1},
    ),
    "ties": (correlation.ties, {"scores": SCORES}),
    "seed_agreement": (correlation.seed_agreement, {"scores_by_seed": [SCORES, ACCURACIES]}),
    "expand": (jaxnas.proxies.expand, {"chosen": "panel"}),
    "resolve": (jaxnas.proxies.resolve, {"chosen": "mgm@w"}),
    "hybrid_score": (
        aggregate.hybrid_score,
        {"metric": SCORES, "condition": ACCURACIES, "tau": 0.5, "mu": 1.0},
    ),
    "non_realizable_bound": (
        aggregate.non_realizable_bound,
        {"metric": SCORES, "condition": SCORES, "learning_rate": 0.1, "num_steps": 2},
    ),
    "log_rank": (aggregate.log_rank, {"scores": [SCORES, ACCURACIES]}),
    "regularized_swap": (
        aggregate.regularized_swap,
        {"scores": [SCORES, ACCURACIES], "mu": 1.0, "sigma": 1.0},
    ),
    **{
        function.__name__: (function, {"apply_fn": network, "params": PARAMS, "batch": BATCH})
        for function in (gradients.loss_gradient, gradients.per_example_gradients)
    },
    "jacobian": (gradients.jacobian, {"apply_fn": network, "params": PARAMS, "inputs": INPUTS}),
    **{
        f"{name} of {type(table).__name__}": (getattr(table, name), {argument: value})
        for table, arch in (
            (nasbench101(), nasbench101().archs[0]),
            (nasbench201(), CELL),
            (nasbench_macro(), [0] * 8),
        )
        for name, argument, value in (
            ("index", "archs", arch),
            ("accuracy", "archs", arch),
            ("lookup", "column", "params"),
        )
    },
    "accuracy": (nasbench201().accuracy, {"archs": CELL, "column": "cifar10"}),
    **{
        f"table {function.__name__}": (function, {"path": "nowhere.npz"})
        for function in (nasbench101, nasbench201, nasbench_macro)
    },
    "from_edges": (wiring.from_edges, {"nodes": 3, "present": [(0, 1, 2)]}),
    "from_code": (wiring.from_code, {"code": "2_21"}),
    "chain": (wiring.chain, {"cells": [[2, 0, 1], [1]]}),
    **{
        function.__name__: (function, {"wiring": [2, 0, 1]})
        for function in (
            *(wiring.to_code, wiring.is_connected, wiring.prune),
            *(connectivity.path_histogram, connectivity.path_statistics),
        )
    },
    "statistics": (connectivity.statistics, {"wirings": [[2, 0, 1]]}),
    "expected_depth_width": (
        connectivity.expected_depth_width,
        {"skip": [0.5, 0.5, 0.0], "linear": [0.5, 0.5, 1.0]},
    ),
    "kernels": (
        connectivity.kernels,
        {"wiring": [2, 0, 1], "gram": GRAM, "order": "post", "stem": "linear"},
    ),
    "published_bound": (connectivity.published_bound, {"wiring": [2, 0, 1], "cosine": 0.5}),
    "convergence_theorem": (
        connectivity.convergence_theorem,
        {"eigenvalue": 0.1, "samples": 2, "paths": 2.0, "nodes": 3, "failure": 0.1},
    ),
    "from_nasbench201": (connectivity.from_nasbench201, {"archs": CELL}),
    "from_nasbench101": (
        connectivity.from_nasbench101,
        {"matrix": [[0, 1], [0, 0]], "operations": ["input", "output"], "vertices": 3},
    ),
    "from_darts": (
        connectivity.from_darts,
        {"cell": [("none", 0), ("skip_connect", 1)] * 4, "concatenated": (2, 3)},
    ),
    "half_radius": (connectivity.half_radius, {"wirings": [[2, 0, 1]], "fraction": 0.5}),
    "deep_enough": (connectivity.deep_enough, {"total_depth": 2}),
    "within": (connectivity.within, {"ranges": connectivity.half_radius([[2, 0, 1]])}),
    "reserve_moderate": (connectivity.reserve_moderate, {"kinds": [0, 1, 2]}),
    "unit_rows": (connectivity.unit_rows, {"inputs": np.eye(3), "mean": np.ones(3)}),
    "input_gram": (connectivity.input_gram, {"rows": np.eye(3)}),
    "largest_cosine": (connectivity.largest_cosine, {"gram": GRAM}),
    "centered_one_hot": (connectivity.centered_one_hot, {"labels": [0, 1], "classes": 2}),
    "linearized_loss": (
        connectivity.linearized_loss,
        {"ntk": GRAM, "labels": [0.5, 1.0], "learning_rate": 0.1, "steps": 2},
    ),
    "leave_one_out_loss": (
        connectivity.leave_one_out_loss,
        {"ntk": GRAM, "labels": [0.5, 1.0], "ridge": 0.1},
    ),
}

# A function in the place of a function is that of the user, whose errors are the user's.
FUNCTIONS = ("loss", "data", "model", "legal", "keep", "reserve")
# What a sentence cannot be asked of: a file that is not there.
ALLOWED = (ValueError, OSError)


def check(name: str, wrong: dict[str, Any]) -> None:
    """Call a door with some arguments wrong; fail unless it works or refuses in one line."""
    door, good = DOORS[name]
    said = "one line"
    try:
        door(**{**good, **wrong})
    except ALLOWED as error:
        said = str(error).strip()
    except Exception as error:
        pytest.fail(f"{name}({wrong}): {type(error).__name__}: {error}")
    assert len(said.splitlines()) == 1, f"{name}({wrong}): {said}"


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a door, and one or two wrong arguments of it."""
    name = draw(st.sampled_from(sorted(DOORS)))
    good = DOORS[name][1]
    names = draw(st.lists(st.sampled_from(sorted(good)), min_size=1, max_size=2, unique=True))
    wrong = {}
    for argument in names:
        takes_functions = callable(good[argument]) or argument in FUNCTIONS
        wrong[argument] = draw(
            st.sampled_from([each for each in WRONG if not (takes_functions and callable(each))])
        )
    return name, wrong


def fuzzed(examples: int, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the settings of a test of so many examples."""
    return settings(
        max_examples=examples,
        deadline=60_000,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        **options,
    )


@pytest.mark.parametrize("name", sorted(DOORS))
def test_good_arguments_are_good(name):
    door, good = DOORS[name]
    if "nowhere" in str(good.get("path")):
        with pytest.raises(FileNotFoundError):
            door(**good)
    else:
        door(**good)


@fuzzed(500)
@given(calls())
def test_wrong_arguments_are_refused_in_one_sentence(call):
    check(*call)


@pytest.mark.slow
@fuzzed(5000)
@given(calls())
def test_many_more_wrong_arguments_are_refused_in_one_sentence(call):
    check(*call)
