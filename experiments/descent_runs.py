"""How fast wirings of fully connected networks train, by gradient descent, remembered in a file."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import wiring
from jaxnas.runs import Meter, ScoreRow, ScoreStore, track
from jaxnas.types import Array, Params, SearchSpace


class Problem(NamedTuple):
    """What is trained: unit rows times sqrt(F), targets, and the Gram matrix of the unit rows."""

    inputs: np.ndarray
    targets: np.ndarray
    gram: np.ndarray


class Descent(NamedTuple):
    """What the trainings share.

    Attributes:
        space: of networks of any wiring.
        problem: see `Problem`.
        steps: of full-batch gradient descent on half the squared error.
        seeds: of the weights.
        path: of the file.
        context: JSON values: what the speeds depend on, apart from wiring, rate's name and seed.
    """

    space: SearchSpace
    problem: Problem
    steps: int
    seeds: tuple[int, ...]
    path: Path
    context: dict[str, Any]


def speeds(
    descent: Descent, wirings: np.ndarray, rates: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return -log(last / first loss) at rates `[A]` of each name, `[S, A]`; -inf if it diverges.

    The output at initialization is subtracted. What the file holds is not trained again.
    """
    codes = [wiring.to_code(one) for one in wirings]
    inputs = jnp.asarray(descent.problem.inputs, jnp.float32)
    targets = jnp.asarray(descent.problem.targets, jnp.float32)
    # A program for each wiring: a third of the work of one that computes all edges for all.
    speed = jax.jit(functools.partial(_speed, descent.space), static_argnums=(0, 1))
    init = functools.cache(lambda seed: descent.space.init(jax.random.key(seed), inputs))
    with ScoreStore(descent.path) as store:
        run = store.open_run(descent.context)
        done = store.done(run)
        for column, code in enumerate(track(codes, len(codes), "wirings")):
            for name, seed in ((name, seed) for name in rates for seed in descent.seeds):
                if (code, name, seed) in done:
                    continue
                with Meter() as meter:
                    matrix = tuple(wirings[column].tolist())
                    found = float(
                        speed(
                            matrix, descent.steps, init(seed), inputs, targets, rates[name][column]
                        )
                    )
                status = "ok" if np.isfinite(found) else "not finite"
                row = ScoreRow(code, name, seed, found if status == "ok" else -np.inf, status)
                store.add(run, [row], cpu_seconds=meter.usage.cpu_seconds)
        table = store.frame(run).set_index(["proxy", "seed", "arch"])["score"].to_dict()
    return {
        name: np.array([[table[name, seed, code] for code in codes] for seed in descent.seeds])
        for name in rates
    }


def _speed(
    space: SearchSpace,
    matrix: tuple[int, ...],
    steps: int,
    params: Params,
    inputs: Array,
    targets: Array,
    rate: Array,
) -> Array:
    network, start = space.bind(np.array(matrix), params)

    def outputs(params: Params) -> Array:
        return network(params, inputs).logits

    goal = targets + outputs(start)

    def loss(params: Params) -> Array:
        return ((goal - outputs(params)) ** 2).sum() / 2

    def step(_: Array, params: Params) -> Params:
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, params, jax.grad(loss)(params))

    end = jax.lax.fori_loop(0, steps, step, start)
    return -jnp.log(loss(end) / loss(start))
