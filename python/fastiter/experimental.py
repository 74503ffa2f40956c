"""Functions on arrays whose interface may change in any release; :mod:`fastiter.torch.experimental` has modules.

They are tested like all others. A name leaves this module when somebody's program shows what its interface needs.
"""

from __future__ import annotations

from ._public import publish
from .fixedpoint._inclusion.halpern_vr import halpern_vr
from .fixedpoint._problems.transport import TransportSweep, transport_sweep
from .mdp._experimental.iwocs import RobustPolicy, iwocs
from .mdp._experimental.latent import LatentMDP, alpha_vectors, belief_tree
from .mdp._experimental.linear_mixture import LinearMixture
from .mdp._experimental.optimism import LOOP

__all__ = [
    "LOOP",
    "LatentMDP",
    "LinearMixture",
    "RobustPolicy",
    "TransportSweep",
    "alpha_vectors",
    "belief_tree",
    "halpern_vr",
    "iwocs",
    "transport_sweep",
]

publish(globals())
