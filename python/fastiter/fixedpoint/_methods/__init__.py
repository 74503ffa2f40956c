"""The methods by their names."""

from __future__ import annotations

from .anderson import Anderson
from .broyden import Broyden
from .chebyshev import Chebyshev
from .newton_krylov import NewtonKrylov
from .simple import Aitken, Halpern, KrasnoselskiiMann, Picard
from .squarem import Squarem

METHODS = {
    each.name: each
    for each in (Picard, Anderson, Broyden, NewtonKrylov, Halpern, KrasnoselskiiMann, Squarem, Aitken, Chebyshev)
}

__all__ = ["METHODS"]
