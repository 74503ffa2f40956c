"""Classes derived from users' module classes at run time, whose objects pickle and copy under the original's name."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

Class = type[nn.Module]


def derive(of: Class, bases: tuple[type, ...], names: Mapping[str, Any], again: Callable[[Class], Class]) -> Class:
    """Return a class with the name of `of`, its first base, further bases and the given attributes.

    As the class cannot be imported by name, its objects are pickled as objects of `of`; on loading, `again`, a
    module-level function, returns the derived class for them.
    """
    common = {name: getattr(of, name) for name in ("__module__", "__qualname__", "__doc__")}
    common |= {"_in_place_of": of, "_again": staticmethod(again), "__reduce_ex__": _reduce_ex, **names}
    return types.new_class(of.__name__, (of, *bases), {}, lambda namespace: namespace.update(common))


def _reduce_ex(self: Any, protocol: Any) -> Any:
    own = type(self)
    definition = next(vars(base) for base in own.__mro__ if "_in_place_of" in vars(base))
    of = definition["_in_place_of"]
    reduced = of.__reduce_ex__(self, protocol)
    if "_in_place_of" not in vars(own) or not isinstance(reduced, tuple):
        return reduced
    make, arguments, *state = reduced
    return _rebuilt, (definition["_again"].__func__, make, *(of if x is own else x for x in arguments)), *state


def _rebuilt(again: Callable[[Class], Class], make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """Unpickle an object, and change its class to the derived one."""
    module = make(*arguments)
    module.__class__ = again(type(module))
    return module
