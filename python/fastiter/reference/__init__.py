"""The specification of each family: plain NumPy loops over the equations, slow and written to be read."""

from __future__ import annotations

from ..bcd import reference as bcd
from ..delta import reference as delta
from ..fixedpoint import reference as fixedpoint
from ..mdp import reference as mdp
from ..newton import reference as newton
from ..quant.reference import arrays as quant_arrays
from ..quant.reference import fixed
from ..quant.reference import formats as quant
from ..quant.reference import matmul as quant_matmul
from ..relax import reference as relax
from ..relax import reference_tuners as relax_tuners
from ..relax.partitioned import reference as relax_partitioned
from ..rnn import reference as rnn
from ..scan import reference as scan
from ..ssm import reference as ssm
from ..ssm import reference_attention as ssm_attention
from ..ssm import reference_conv as ssm_conv
from ..ssm import reference_wkv as ssm_wkv

__all__ = [
    "bcd",
    "delta",
    "fixed",
    "fixedpoint",
    "mdp",
    "newton",
    "quant",
    "quant_arrays",
    "quant_matmul",
    "relax",
    "relax_partitioned",
    "relax_tuners",
    "rnn",
    "scan",
    "ssm",
    "ssm_attention",
    "ssm_conv",
    "ssm_wkv",
]
