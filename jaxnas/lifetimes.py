"""What is computed for a network, such as its compiled programs, and ends with it."""

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

_OWNERS: dict[int, dict[Any, Any]] = {}


def remember(network: Callable[..., Any], key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make()` gave for this network and key, kept for as long as the network lives.

    What is made must not refer to the network. Nothing is kept for one that is not hashable: it may
    be another one the next time.
    """
    owner, method = _owner(network)
    try:
        hash(owner)
        if id(owner) not in _OWNERS:
            weakref.finalize(owner, _OWNERS.pop, id(owner), None)
            _OWNERS[id(owner)] = {}
    except TypeError:
        return make()
    kept = _OWNERS[id(owner)]
    if (method, key) not in kept:
        kept[method, key] = make()
    return kept[method, key]


def for_each_network(*static: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: `jax.jit` of a function of a network, whose programs end with it.

    Args:
        *static: positions of further static arguments, counted from the network's, 0.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(network: Callable[..., Any]) -> Any:
            owner, method = _owner(network)
            try:
                alive: Callable[[], Any] = weakref.ref(owner)
            except TypeError:
                alive = lambda: owner  # noqa: E731

            def with_network(*args: Any) -> Any:
                living = alive()
                return function(types.MethodType(method, living) if method else living, *args)

            return jax.jit(with_network, static_argnums=[place - 1 for place in static])

        @functools.wraps(function)
        def call(network: Callable[..., Any], *args: Any) -> Any:
            return remember(network, function, lambda: compiled(network))(*args)

        return call

    return decorate


def _owner(network: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what a network lives in, and the method of it that is called, if it is one."""
    if isinstance(network, types.MethodType):
        return network.__self__, network.__func__
    return network, None
