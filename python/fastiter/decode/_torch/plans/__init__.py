"""Plans of transformers' recurrent language models, one function per architecture.

They are those of transformers 5.24: names of modules, and the equations of a step with a cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import nn

from ...plan import Plan
from . import delta, falcon_h1, granite, jamba, lfm2, mamba, mamba2, nemotron_h, qwen, recurrent_gemma, xlstm, zamba2
from .source import Source

#: The version of transformers that the plans were written for; older ones have other caches and modules
OLDEST = (5, 24)
#: Functions that return the plan of a model, by its class
PLANS: dict[str, Callable[[Source], Plan]] = {
    "MambaForCausalLM": mamba.mamba,
    "FalconMambaForCausalLM": mamba.falcon_mamba,
    "Qwen3_5ForCausalLM": qwen.qwen35,
    "Qwen3_5MoeForCausalLM": qwen.qwen35_moe,
    "Qwen3NextForCausalLM": qwen.qwen3_next,
    "NemotronHForCausalLM": nemotron_h.nemotron_h,
    "JambaForCausalLM": jamba.jamba,
    "BambaForCausalLM": jamba.bamba,
    "Zamba2ForCausalLM": zamba2.zamba2,
    "OlmoHybridForCausalLM": delta.olmo_hybrid,
    "KimiLinearForCausalLM": delta.kimi_linear,
    "RecurrentGemmaForCausalLM": recurrent_gemma.recurrent_gemma,
    "xLSTMForCausalLM": xlstm.xlstm,
    "Mamba2ForCausalLM": mamba2.mamba2,
    "Lfm2ForCausalLM": lfm2.lfm2,
    "GraniteMoeHybridForCausalLM": granite.granite_moe_hybrid,
    "FalconH1ForCausalLM": falcon_h1.falcon_h1,
}


#: Models of which a call with several tokens and a cache starts a new recurrence; that of others continues its states
STARTS_ANEW = frozenset({"MambaForCausalLM", "FalconMambaForCausalLM", "JambaForCausalLM"})


def plan_of(model: nn.Module) -> Plan:
    """Return the plan of one step of a model.

    Raises
    ------
    TypeError, ValueError
        If the model, one of its modules or parameters, or an option is not known, with its name.
    """
    kind = type(model)
    _check_version()
    plan = PLANS.get(kind.__name__) if kind.__module__.split(".")[0] == "transformers" else None
    if plan is None:
        found = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"Decoder: model must be one of {', '.join(sorted(PLANS))} of transformers, got {found}")
    source = Source(model)
    result = plan(source)
    source.check()
    return result


def _check_version() -> None:
    """Refuse versions of transformers whose caches and modules have other names."""
    version = getattr(sys.modules.get("transformers"), "__version__", None)
    if version is not None and tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ValueError(f"Decoder: transformers must have at least version {oldest}, got {version}")
