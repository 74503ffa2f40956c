"""Former names of modules: files that hold whole modules or objects name their classes by them, and imports may.

A name that no file has any more is looked up here, and the module of the new name takes its place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

_TORCH = {
    "delta": "delta._torch.functional",
    "_flashrnn_config": "rnn._torch.flashrnn_config",
    "hls": "quant._torch.hls.export",
    "newton": "newton._torch.functional",
    "_quant_analysis": "quant._torch.analysis",
    "relax": "relax._torch.functional",
    "relax_chebyshev": "relax._torch.chebyshev",
    "relaxation": "relax._torch.relaxation",
    "rnn": "rnn._torch.functional",
    "scan": "scan._torch.functional",
    "solve": "newton._torch.solve.functional",
    "nn.delta_net": "delta._torch.nn",
    "nn.format_quantizers": "quant._torch.nn.format_quantizers",
    "nn.linear_rnn": "scan._torch.nn",
    "nn.para": "newton._torch.nn",
    "nn.quant_layers": "quant._torch.nn.layers",
    "nn.quant_model": "quant._torch.nn.model",
    "nn.quant_optimizer": "quant._torch.nn.optimizer",
    "nn.quant_plan": "quant._torch.nn.plan",
    "nn.quant_rnn": "quant._torch.nn.rnn",
    "nn.quant_summary": "quant._torch.nn.summary",
    "nn.quantizers": "quant._torch.nn.learned_quantizers",
    "nn.rnn": "rnn._torch.nn.modules",
    "nn.slstm_block": "rnn._torch.nn.slstm_block",
    "nn.streaming": "rnn._torch.nn.streaming",
}
_REFERENCE = {
    "delta": "delta.reference",
    "fixed": "quant.reference.fixed",
    "newton": "newton.reference",
    "quant": "quant.reference.formats",
    "quant_arrays": "quant.reference.arrays",
    "quant_matmul": "quant.reference.matmul",
    "relax": "relax.reference",
    "relax_tuners": "relax.reference_tuners",
    "rnn": "rnn.reference",
    "scan": "scan.reference",
}
_OTHERS = {"_newton": "newton._cells", "quant._arithmetic": "quant._fixed_array"}
_PACKAGE = __name__.rpartition(".")[0]
MOVED = {
    f"{_PACKAGE}.{prefix}{old}": f"{_PACKAGE}.{new}"
    for prefix, names in (("torch.", _TORCH), ("reference.", _REFERENCE), ("", _OTHERS))
    for old, new in names.items()
}


class _Substitute(Loader):
    """Loads the module of the new name in place of an empty one."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name into ``sys.modules`` under the former one."""
        __import__(MOVED[module.__name__])
        sys.modules[module.__name__] = sys.modules[MOVED[module.__name__]]


class _FormerNames(MetaPathFinder):
    """Finds modules by their former names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name, None for any other."""
        return spec_from_loader(name, _Substitute()) if name in MOVED else None


sys.meta_path.append(_FormerNames())
