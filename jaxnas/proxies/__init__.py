"""Training-free scores; larger is better, always."""

from collections.abc import Iterable

from jaxnas.proxies import cost, knas, knas_published, saliency
from jaxnas.types import Proxy

BY_NAME: dict[str, Proxy] = {
    proxy.name: proxy
    for proxy in (
        cost.params(),
        saliency.grad_norm(),
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
        knas.layer_balance(),
        knas_published.knas_published(),
        knas_published.knas_published(aliased=True),
    )
}
"""Proxies by name: the choices of flags, and the table of the conformance tests."""

__all__ = ["BY_NAME", "cost", "knas", "knas_published", "resolve", "saliency"]


def resolve(proxies: Iterable[str | Proxy]) -> list[Proxy]:
    """Return proxies, given by name or as they are; each name once.

    Raises:
        ValueError: no proxy, an unknown name, or one name twice.
    """
    chosen = []
    for proxy in proxies:
        if not isinstance(proxy, Proxy) and proxy not in BY_NAME:
            raise ValueError(f"Unknown proxy {proxy!r}: use one of {', '.join(BY_NAME)}.")
        chosen.append(BY_NAME[proxy] if isinstance(proxy, str) else proxy)
    names = [proxy.name for proxy in chosen]
    if not chosen or len(set(names)) < len(names):
        raise ValueError(f"Name at least one proxy, each once: got {names}; for example ['mgm'].")
    return chosen
