"""Training-free scores; larger is better, always."""

from collections.abc import Iterable

from jaxnas.proxies import (
    aggregate,
    az_nas,
    cost,
    feature_correlation,
    gradient_statistics,
    input_jacobian,
    knas,
    knas_published,
    noise,
    ntk,
    relu_codes,
    restriction,
    saliency,
)
from jaxnas.types import Proxy

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
        knas.layer_balance(),
        knas_published.knas_published(),
        knas_published.knas_published(aliased=True),
        ntk.ntk_trace(),
        ntk.ntk_trace(logit="sum"),
        ntk.ntk_trace(logit="random"),
        ntk.ntk_trace(mode="exact"),
        ntk.ntk_condition(),
        ntk.ntk_condition(logit="sum"),
        ntk.ntk_condition(mode="exact"),
        ntk.ntk_mean(),
        ntk.kernel_alignment(),
        relu_codes.naswot(),
        relu_codes.linear_regions(),
        relu_codes.swap(),
        az_nas.expressivity(),
        az_nas.progressivity(),
        az_nas.trainability(),
        feature_correlation.meco(),
        input_jacobian.jacob_cov(),
        input_jacobian.epe_nas(),
        noise.zen(),
        noise.synflow(),
    )
}
"""Proxies by name: the choices of flags, and the table of the conformance tests."""

__all__ = [
    "BY_NAME",
    "aggregate",
    "az_nas",
    "cost",
    "feature_correlation",
    "gradient_statistics",
    "input_jacobian",
    "knas",
    "knas_published",
    "noise",
    "ntk",
    "relu_codes",
    "resolve",
    "restriction",
    "saliency",
]


def resolve(chosen: str | Iterable[str | Proxy]) -> tuple[Proxy, ...]:
    """Return proxies, given by name or as they are; a single name will do.

    `mgm@head` is `mgm` of the tensors with `head` in their path; see `restriction.restrict`.

    Raises:
        ValueError: no proxy, an unknown one, or one name twice.
    """
    resolved = []
    for proxy in [chosen] if isinstance(chosen, str) else chosen:
        if isinstance(proxy, str) and proxy.partition("@")[0] in BY_NAME:
            name, restricted, pattern = proxy.partition("@")
            proxy = BY_NAME[name]
            if restricted:
                proxy = restriction.restrict(proxy, pattern)
        if not isinstance(proxy, Proxy):
            raise ValueError(
                f"Unknown proxy {proxy!r}: use a jaxnas.Proxy or one of {', '.join(BY_NAME)}."
            )
        resolved.append(proxy)
    names = [proxy.name for proxy in resolved]
    if not resolved or len(set(names)) < len(names):
        raise ValueError(f"Name at least one proxy, each once: got {names}; for example ['mgm'].")
    return tuple(resolved)
