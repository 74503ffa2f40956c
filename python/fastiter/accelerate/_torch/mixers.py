"""Replacements for whole mixers of models, for those whose code is known."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .delta_mixer import delta_mixer
from .functions import Function
from .mamba.mamba2_mixer import mamba2_mixer
from .mamba.mamba_mixer import mamba_mixer
from .rebind import digest_of, parameters_of, unwrapped

#: The replacements by the digest of the original forward, in transformers 5.24 and in 5.15 to 5.20
MIXERS: dict[str, Callable[[Function, str], Function]] = {
    **dict.fromkeys(("7c9fb6420d47733e", "9e08a6ec032a9ff2"), mamba_mixer),  # Mamba
    **dict.fromkeys(("ac8ff8b35ee26df6", "8911b19ccd2f8b2a"), mamba_mixer),  # FalconMamba
    **dict.fromkeys(("cef42bdb8f15ca32", "ce85ad284fcc1d0c"), mamba_mixer),  # Jamba
    # Mamba2, Bamba, GraniteMoeHybrid, NemotronH, Zamba2
    **dict.fromkeys(("ac99c8eb095cfc58", "8d48966d1034bc0a"), mamba2_mixer),
    **dict.fromkeys(("846253dbd6ac3b87", "1a5e85a55dfe96f0"), mamba2_mixer),  # FalconH1
    **dict.fromkeys(("4a5edc7977b47a75", "1ff68aad8a5ddbd3"), delta_mixer),  # Qwen3-Next
    **dict.fromkeys(("969910f6d7cd47bf", "7659283c444a9d2d", "9e6a3fd8602ad113"), delta_mixer),  # Qwen3.5
}


def whole_mixer(of: type[nn.Module], forward: Function) -> Function | None:
    """Return the replacement for a class's forward, None if its code is not known.

    Parameters
    ----------
    of : class
        The class of a mixer.
    forward : function
        Its forward with replaced functions, for calls that the replacement does not support.
    """
    theirs = unwrapped(of.forward)
    make = MIXERS.get(digest_of(theirs))
    return None if make is None else make(forward, parameters_of(theirs)[2])
