"""The methods by their names."""

from __future__ import annotations

from .aitken import Aitken
from .anderson import Anderson
from .averaged import Halpern, KrasnoselskiiMann, Picard
from .broyden import Broyden
from .chebyshev import Chebyshev
from .newton_krylov import NewtonKrylov
from .squarem import Squarem

METHODS = {
    each.name: each
    for each in (Picard, Anderson, Broyden, NewtonKrylov, Halpern, KrasnoselskiiMann, Squarem, Aitken, Chebyshev)
}

__all__ = ["METHODS"]
