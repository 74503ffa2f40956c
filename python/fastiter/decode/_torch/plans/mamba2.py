"""Mamba-2, and its mixer, which many hybrid models have."""

from __future__ import annotations

import math

import numpy as np

from ...builder import Builder
from ...plan import SSD, Gate, Norm, Plan, Slot, Vector
from .parts import Frame, Hidden, conv, conv_state, epsilon, linear, model_plan, rms_norm, scaled_linear
from .source import Part, Source, activation_named


def mamba2(source: Source) -> Plan:
    """Return the plan of a Mamba-2."""

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("norm", "Mamba2RMSNorm"), hidden.stream, hidden.x)
        mixer = part.child("mixer", "Mamba2Mixer")
        ssd_mixer(b, mixer, hidden, index, "MambaRMSNormGated")

    frame = Frame(("backbone", "Mamba2Model"), "embeddings", ("norm_f", "Mamba2RMSNorm"))
    return model_plan(source, frame, "Mamba2Block", layer)


def ssd_mixer(
    b: Builder,
    mixer: Part,
    hidden: Hidden,
    index: int,
    norm: str | None,
    *,
    scale: float = 1.0,
    input_scale: float = 1.0,
    factors: Vector | None = None,
) -> None:
    """Append a mixer of Mamba-2 whose output, times ``scale``, is added to the residual stream.

    ``norm`` is the class of its gated norm, None if it has only a gate. ``factors`` multiply the projected inputs, and
    ``input_scale`` the inputs themselves.
    """
    module = mixer.module
    mixer.activation("act")
    b.prompts &= tuple(module.time_step_limit) == (0.0, math.inf)  # which transformers ignores in single tokens
    heads, groups, states = module.num_heads, module.n_groups, module.ssm_state_size
    size = heads * module.head_dim
    projected = b.slot("projected", module.in_proj.out_features)
    scaled_linear(b, mixer, "in_proj", hidden.x, projected, input_scale)
    if factors is not None:
        b.add(Gate(projected, factors, projected))
    z, mixed, dt = projected.split(size, size + 2 * groups * states, heads)
    kernel = mixer.child("conv1d", "Conv1d")
    convolved, y = b.slot("convolved", mixed.size), b.slot("y", size)
    conv(b, kernel, mixed, convolved, conv_state(b, kernel, index), activation_named(mixer, module.activation))
    x, B, C = convolved.split(size, groups * states, groups * states)
    memory = b.state("recurrent", (heads, module.head_dim, states), index)
    vectors = -np.exp(mixer.vector("A_log")), mixer.vector("D"), mixer.vector("dt_bias")
    b.add(SSD(x, dt, B, C, y, memory, *vectors, heads, module.head_dim, groups, states))
    gated_norm(b, mixer, y, z, norm)
    linear(b, mixer, "out_proj", y, hidden.stream, add=True, scale=scale)


def gated_norm(b: Builder, mixer: Part, y: Slot, z: Slot, norm: str | None) -> None:
    """Append the gate of a mixer and its norm, which comes after the gate unless it has an attribute that says so."""
    if norm is None:
        mixer.ignore("norm", "Identity")
        b.add(Gate(z, y, y, "silu"))
        return
    part = mixer.child("norm", norm)
    gate_first = not getattr(part.module, "norm_before_gate", False)
    size = getattr(part.module, "group_size", None) or y.size // part.module.n_groups
    b.add(Norm(y, y, part.vector("weight"), epsilon(part), size, gate=z, gate_first=gate_first))
