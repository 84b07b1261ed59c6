"""What every table is: networks, columns of numbers, and how to find a network among them."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.types import Array, ScoreFn

Networks = ArrayLike | str | Sequence[str]
"""Which networks are meant, see `TabularBenchmark`."""


@dataclass(frozen=True, eq=False)
class TabularBenchmark:
    """Networks of a space, with what they reached when somebody trained them, a row each.

    A network is asked for as an architecture `int32[D]` or by its string, and the answer is a
    scalar; several are asked for as `int32[A, D]` or as a sequence of strings: the answer is `[A]`.

    Attributes:
        name: of the table.
        archs: `int32[N, D]`, in the order of the source.
        columns: `[N]` each, by name; nobody can write to them.
        target: the column of the accuracies that networks are judged by.
        num_choices: of each decision.
        from_string: returns the architecture `int32[D]` of its string.
        keys: `keys(archs)`: numbers `int64[A]` of `int32[A, D]`, equal for networks that are the
            same one to the benchmark; None if those of equal decisions are.
        row_keys: `int64[N]`, those of `archs` where they are stored, because `keys` takes long. Of
            several rows with one key the first is found.
    """

    name: str
    archs: NDArray[np.int32]
    columns: Mapping[str, NDArray]
    target: str
    num_choices: tuple[int, ...]
    from_string: Callable[[str], NDArray[np.int32]]
    keys: Callable[[NDArray[np.int32]], NDArray[np.int64]] | None = None
    row_keys: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        arrays: list[NDArray[Any]] = [self.archs, *self.columns.values()]
        if self.row_keys is not None:
            arrays.append(self.row_keys)
        if len(set(map(len, arrays))) > 1:
            raise ValueError("columns of different lengths")
        for array in arrays:
            array.flags.writeable = False  # all readers share them

    def __repr__(self) -> str:
        columns = ", ".join(self.columns)
        return f"TabularBenchmark({self.name}, {len(self.archs)} networks: {columns})"

    @property
    def params(self) -> NDArray[np.int64]:
        """Trainable parameters of each network, `int64[N]`."""
        return self.columns["params"]

    def index(self, archs: Networks) -> NDArray[np.int64]:
        """Return the row, `int64[]` or `int64[A]`.

        Raises:
            ValueError: If a string or an architecture is malformed, or not in the table.
        """
        array = np.asarray(archs)
        if array.dtype.kind in "OTU":  # strings, also as pandas and newer NumPy hold them
            found = [self.from_string(string) for string in array.astype(str).ravel().tolist()]
            array = np.array(found, np.int32).reshape(*array.shape, len(self.num_choices))
        array = encoding.validate_archs(array, self.num_choices)
        if array.ndim > 2:
            raise ValueError(f"Pass architectures as [D] or [A, D]: got {list(array.shape)}.")
        rows = self._rows(array)
        if (rows < 0).any():
            raise ValueError(
                f"The table holds {len(self.archs)} networks of {self.name}: got another at "
                f"position {np.flatnonzero(rows < 0)[0]}; take networks from its archs."
            )
        return rows

    def value(self, archs: Networks, column: str) -> NDArray:
        """Return the numbers of a column, `[]` or `[A]`.

        Raises:
            ValueError: If the column or a network is unknown.
        """
        check.choice("column", column, tuple(self.columns))
        return self.columns[column][self.index(archs)]

    def accuracy(self, archs: Networks, column: str | None = None) -> NDArray[np.float64]:
        """Return accuracies in percent, `float64[]` or `float64[A]`.

        Args:
            archs: the networks.
            column: which accuracy; `target` if None.

        Raises:
            ValueError: If the column or a network is unknown.
        """
        return self.value(archs, self.target if column is None else column)

    def lookup(self, column: str) -> ScoreFn:
        """Return `score_fn(archs)` for searches; nan for what is not in the table.

        If the table holds the whole space, the function works under `jax.jit`, `jax.vmap` and
        `jax.lax.scan`. The column is then a leaf of a `jax.tree_util.Partial`: it travels as an
        argument, and a program that was compiled for one column serves them all.

        Raises:
            ValueError: If the column is unknown.
        """
        check.choice("column", column, tuple(self.columns))
        if len(self.archs) < prod(self.num_choices):
            return functools.partial(self._look_up, column)
        dense = np.empty(len(self.archs), np.float32)
        dense[self._keys_of(self.archs)] = self.columns[column]
        return jax.tree_util.Partial(_entries, jnp.asarray(dense.reshape(self.num_choices)))

    def best_found(
        self, archs: Networks, budgets: ArrayLike, *, seen: str, cost: str
    ) -> dict[str, NDArray]:
        """Return what a search has found by each budget, when it looks at networks in this order.

        A look at a network costs an entry of one column and shows that of another; a search keeps
        the network that showed most, the first of equals. Simulated searches of all kinds compare
        so at equal cost.

        Args:
            archs: the networks that the search looks at, first to last.
            budgets: `[N]`, in the unit of `cost`.
            seen: the column of what a look shows, for example a validation accuracy.
            cost: the column of what a look costs, for example seconds of training.

        Returns:
            Arrays by name, an entry for each budget that pays for a look: the `budget`, how many
            `looks` it pays for, what they have `spent`, and all columns of the network that was
            found. `pandas.DataFrame` makes a table of them.

        Raises:
            ValueError: If a column or a network is unknown.

        Example:
            >>> from jaxnas import benchmarks
            >>> table = benchmarks.nasbench201()
            >>> looked = table.archs[[5, 700, 9000]]
            >>> found = table.best_found(
            ...     looked, [200, 2000], seen="cifar10/valid_12ep", cost="seconds"
            ... )
            >>> found["looks"], found["spent"].round(2), found["cifar10"]
            (array([2, 3]), array([182.79, 339.3 ]), array([91.94, 91.94]))
        """
        rows, names = self.index(archs), tuple(self.columns)
        shown = self.columns[check.choice("seen", seen, names)][rows]
        spent = self.columns[check.choice("cost", cost, names)][rows].cumsum()
        looks = np.searchsorted(spent, budgets, side="right")
        paid = looks > 0
        looks = looks[paid]
        best = rows[[shown[:count].argmax() for count in looks]]
        table = {"budget": np.asarray(budgets)[paid], "looks": looks, "spent": spent[looks - 1]}
        return table | {name: each[best] for name, each in self.columns.items()}

    def _look_up(self, column: str, archs: ArrayLike) -> NDArray[np.float64]:
        rows = []
        for arch in encoding.validate_archs(archs, self.num_choices):
            try:
                rows.append(int(self._rows(arch)))
            except ValueError:  # a network that the benchmark does not allow
                rows.append(-1)
        at = np.array(rows)
        return np.where(at < 0, np.nan, self.columns[column][at])

    def _rows(self, archs: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the rows of valid architectures, -1 where there is none."""
        keys, rows = self._known
        wanted = self._keys_of(np.atleast_2d(archs))
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, rows[at], -1).reshape(archs.shape[:-1])

    @functools.cached_property
    def _known(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The different keys in rising order, and the first row of each."""
        found = self._keys_of(self.archs) if self.row_keys is None else self.row_keys
        return np.unique(found, return_index=True)

    def _keys_of(self, archs: NDArray[np.int32]) -> NDArray[np.int64]:
        return encoding.encode(archs, self.num_choices) if self.keys is None else self.keys(archs)


def _entries(table: Array, archs: Array) -> Array:
    """Return the entries of `table`, an axis a decision, at `archs` `[A, D]`; nan out of range."""
    if archs.shape[-1] != table.ndim:
        raise ValueError(
            f"Architectures must have shape [A, {table.ndim}]: got {list(archs.shape)}."
        )
    places = tuple(jnp.moveaxis(archs, -1, 0))
    return table.at[places].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@contextlib.contextmanager
def whole(path: Path, what: str, command: str) -> Iterator[None]:
    """Raise `ValueError` for whatever is raised inside, where a table is read.

    What a damaged archive raises depends on the damaged byte.

    Args:
        path: of the file.
        what: the file should hold.
        command: which writes the file, behind `python -m`.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} does not hold the {what} ({error}): reinstall jaxnas, or write it again with "
            f"`python -m {command}`."
        ) from error
