"""Training-free scores; larger is better, always."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.proxies import (
    aggregate,
    az_nas,
    cost,
    gradient_statistics,
    input_jacobian,
    knas,
    knas_published,
    meco,
    naswot,
    ntk,
    restriction,
    saliency,
    swap,
    synflow,
    te_nas,
    zen,
)
from jaxnas.types import FAILED, Proxy

BY_NAME: dict[str, Proxy] = {
    proxy.name: proxy
    for proxy in (
        cost.params(),
        cost.flops(),
        saliency.grad_norm(),
        saliency.grad_norm(aggregate="global"),
        saliency.snip(),
        saliency.snip(form="total"),
        saliency.plain(),
        saliency.fisher(),
        saliency.l2_norm(),
        saliency.grasp(),
        saliency.grasp(sign="signed"),
        gradient_statistics.zico(),
        gradient_statistics.gradsign(),
        knas.mgm(),
        knas.mgm(aggregate="mean"),
        knas.mgm(aggregate="log_sum"),
        knas.gradient_values(),
        knas.gradient_correlation(),
        knas.gradient_correlation(per_tensor=False),
        knas.gradient_correlation(similarity="pearson"),
        knas.gradient_correlation(similarity="pearson", per_tensor=False),
        knas.offdiagonal(),
        knas.split_half(),
        knas.unified_kernel(),
        knas.gradient_diversity(),
        knas.gradient_diversity(aggregate="mean"),
        knas.layer_balance(),
        knas.layer_evenness(),
        knas_published.knas_published(),
        knas_published.knas_published(aliased=True),
        ntk.ntk_trace(),
        ntk.ntk_trace(logit="sum"),
        ntk.ntk_trace(logit="random"),
        ntk.ntk_trace(mode="exact"),
        ntk.ntk_condition(),
        ntk.ntk_condition(logit="sum"),
        ntk.ntk_condition(mode="exact"),
        ntk.ntk_condition(logit="sum", mode="exact", biases=False),
        ntk.ntk_mean(),
        ntk.kernel_alignment(),
        naswot.naswot(),
        te_nas.linear_regions(),
        swap.swap(),
        az_nas.expressivity(),
        az_nas.progressivity(),
        az_nas.trainability(),
        meco.meco(),
        meco.channel_independence(),
        meco.channel_entropy(),
        input_jacobian.jacob_cov(),
        input_jacobian.epe_nas(),
        zen.zen(),
        synflow.synflow(),
    )
}
"""Proxies by name: the choices of flags, and the table of the conformance tests."""

__all__ = [
    "BY_NAME",
    "Chosen",
    "aggregate",
    "az_nas",
    "cost",
    "expand",
    "failed",
    "gradient_statistics",
    "input_jacobian",
    "knas",
    "knas_published",
    "meco",
    "naswot",
    "ntk",
    "resolve",
    "restriction",
    "saliency",
    "swap",
    "synflow",
    "te_nas",
    "zen",
]


def resolve(chosen: str | Proxy | Iterable[str | Proxy]) -> tuple[Proxy, ...]:
    """Return proxies, given by name or as they are; a single name will do.

    `mgm@head` is `mgm` of the tensors with `head` in their path; see `restriction.restrict`.

    Raises:
        ValueError: no proxy, an unknown one, or one name twice.

    Examples:
        >>> from jaxnas import proxies
        >>> [proxy.name for proxy in proxies.resolve(["mgm", "snip@head"])]
        ['mgm', 'snip@head']
    """
    resolved = []
    for proxy in _asked(chosen):
        if isinstance(proxy, str) and proxy.partition("@")[0] in BY_NAME:
            name, restricted, pattern = proxy.partition("@")
            proxy = BY_NAME[name]
            if restricted:
                proxy = restriction.restrict(proxy, pattern)
        if recipe := aggregate.RECIPES.get(_name(proxy)):
            raise ValueError(
                f"{_name(proxy)} ranks the networks of a pool and is not measured of one: give "
                f"several to jaxnas.rank or a Scorer, or take {', '.join(recipe.parts)}."
            )
        if not isinstance(proxy, Proxy):
            uncalled = f" (did you mean {proxy.__name__}()?)" if inspect.isfunction(proxy) else ""
            raise ValueError(
                f"Unknown proxy {proxy!r}{uncalled}: use a jaxnas.Proxy or one of "
                f"{', '.join(BY_NAME)}; of a pool also {', '.join(aggregate.RECIPES)}."
            )
        resolved.append(proxy)
    names = [proxy.name for proxy in resolved]
    if not resolved or len(set(names)) < len(names):
        raise ValueError(f"Name at least one proxy, each once: got {names}; for example ['mgm'].")
    return tuple(resolved)


class Chosen(NamedTuple):
    """Scores that were asked for by name; some may be aggregates of a pool.

    Attributes:
        names: in the order in which they were asked for.
        proxies: what has to be measured for them, each once.
    """

    names: tuple[str, ...]
    proxies: tuple[Proxy, ...]

    def scores(
        self, measured: Mapping[str, ArrayLike], status: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return the scores `float64[..., A]` of a pool, by the names that were asked for.

        Aggregates rank along the last axis: each draw of weights by itself.

        Args:
            measured: `[..., A]` by the name of the proxy.
            status: `[..., A]` by the names that were asked for; what failed is then `-inf`, also
                where an aggregate has ranks of other parts.
        """
        found = {}
        for name in self.names:
            recipe = aggregate.RECIPES.get(name)
            found[name] = recipe(measured) if recipe else np.asarray(measured[name], np.float64)
            if status is not None:
                found[name] = np.where(failed(status[name]), -np.inf, found[name])
        return found

    def status(self, measured: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what became of each score, `[..., A]`; "ok" of an aggregate if all parts are.

        Args:
            measured: `[..., A]` by the name of the proxy.
        """
        found = {}
        for name in self.names:
            first, *others = aggregate.RECIPES[name].parts if name in aggregate.RECIPES else (name,)
            reasons = measured[first]
            for part in others:
                reasons = np.where(reasons == "ok", measured[part], reasons)
            found[name] = reasons
        return found


def expand(chosen: str | Proxy | Iterable[str | Proxy]) -> Chosen:
    """Return what has to be measured for scores of a pool, and how they follow from that.

    Besides proxies, as in `resolve`, the names of `aggregate.RECIPES` are scores: `panel`, `pair`,
    `az_nas` and others, made of the ranks that several proxies give to the networks of a pool.

    Raises:
        ValueError: no score, an unknown one, or one name twice.

    Examples:
        >>> from jaxnas import proxies
        >>> [proxy.name for proxy in proxies.expand("pair").proxies]
        ['layer_balance', 'channel_independence']
    """
    asked = _asked(chosen)
    names = tuple(map(_name, asked))
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Name at least one score, each once: got {list(names)}; for example ['panel']."
        )
    needed: dict[str, str | Proxy] = {}
    for name, proxy in zip(names, asked, strict=True):
        if isinstance(proxy, str) and proxy in aggregate.RECIPES:
            needed = {**{part: part for part in aggregate.RECIPES[name].parts}, **needed}
        else:
            needed[name] = proxy
    return Chosen(names, resolve(needed.values()))


def failed(status: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which scores, of any shape, are missing because something was raised."""
    return np.char.startswith(status.astype(str), FAILED)


def _asked(chosen: Any) -> list[Any]:
    """Return what was asked for, a list of one or more."""
    alone = isinstance(chosen, str) or callable(chosen)
    return [chosen] if alone else check.items("proxies", chosen)


def _name(proxy: str | Proxy) -> str:
    return proxy.name if isinstance(proxy, Proxy) else str(proxy)
