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
    owner, methods = _owner(network)
    try:
        hash(owner)
        if id(owner) not in _OWNERS:
            weakref.finalize(owner, _OWNERS.pop, id(owner), None)
            _OWNERS[id(owner)] = {}
    except TypeError:
        return make()
    kept = _OWNERS[id(owner)]
    if (methods, key) not in kept:
        kept[methods, key] = make()
    return kept[methods, key]


def for_each_network(*static: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: `jax.jit` of a function of a network, whose programs end with it.

    A network with a true attribute `eager` has none: the function is called as it is.

    Args:
        *static: positions of further static arguments, counted from the network's, 0.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(network: Callable[..., Any], *args: Any) -> Any:
            if getattr(_owner(network)[0], "eager", False):
                return function(network, *args)
            return remember(network, function, lambda: _compiled(function, network, static))(*args)

        return call

    return decorate


def _compiled(
    function: Callable[..., Any], network: Callable[..., Any], static: tuple[int, ...]
) -> Callable[..., Any]:
    owner, methods = _owner(network)
    try:
        alive: Callable[[], Any] = weakref.ref(owner)
    except TypeError:
        alive = functools.partial(_itself, owner)

    def with_network(*args: Any) -> Any:
        living = alive()
        for method in reversed(methods):
            living = types.MethodType(method, living)
        return function(living, *args)

    return jax.jit(with_network, static_argnums=[place - 1 for place in static])


def _owner(network: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what a network lives in, and the methods of it that are called, last one first."""
    methods = []
    while isinstance(network, types.MethodType):
        methods.append(network.__func__)
        network = network.__self__
    return network, tuple(methods)


def _itself(owner: Any) -> Any:
    return owner
