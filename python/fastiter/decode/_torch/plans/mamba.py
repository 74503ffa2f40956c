"""Mamba and FalconMamba."""

from __future__ import annotations

import numpy as np

from ...builder import Builder
from ...plan import Gate, Linear, Norm, Plan, Selective, Slot
from .parts import Frame, Hidden, conv, conv_state, epsilon, linear, model_plan, rms_norm
from .source import Part, Source, activation_named

#: The norms of dt, B and C that some mixers have
NORMS = ("dt_layernorm", "b_layernorm", "c_layernorm")


def mamba(source: Source) -> Plan:
    """Return the plan of a Mamba."""
    return _plan(source, "Mamba")


def falcon_mamba(source: Source) -> Plan:
    """Return the plan of a FalconMamba."""
    return _plan(source, "FalconMamba")


def _plan(source: Source, family: str) -> Plan:
    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("norm", f"{family}RMSNorm"), hidden.stream, hidden.x)
        mixer = part.child("mixer", f"{family}Mixer")
        selective_mixer(b, mixer, hidden, index)

    frame = Frame(("backbone", f"{family}Model"), "embeddings", ("norm_f", f"{family}RMSNorm"))
    return model_plan(source, frame, f"{family}Block", layer)


def selective_mixer(b: Builder, mixer: Part, hidden: Hidden, index: int) -> None:
    """Append a mixer of Mamba, which normalizes dt, B and C if it has norms."""
    mixer.activation("act")
    activation = activation_named(mixer, mixer.module.activation)
    A, skip = -np.exp(mixer.vector("A_log")), mixer.vector("D")
    size, states = A.shape
    gated = b.slot("xz", 2 * size)
    x, z = gated.split(size, size)
    linear(b, mixer, "in_proj", hidden.x, gated)
    kernel = mixer.child("conv1d", "Conv1d")
    u = b.slot("u", size)
    conv(b, kernel, x, u, conv_state(b, kernel, index), activation)
    dt, B, C = _projections(b, mixer, u, states)
    step = mixer.child("dt_proj", "Linear")
    d = b.slot("dt", size)
    b.add(Linear(dt, d, step.matrix()))
    y = b.slot("y", size)
    state = b.state("recurrent", A.shape, index)
    b.add(Selective(u, d, B, C, y, state, A, skip, step.vector("bias")), Gate(z, y, y, "silu"))
    linear(b, mixer, "out_proj", y, hidden.stream, add=True)


def _projections(b: Builder, mixer: Part, u: Slot, states: int) -> list[Slot]:
    """Append the projection of the inputs to dt, B and C, and return these."""
    matrix, bias = mixer.linear("x_proj")
    all_three = b.slot("dt_B_C", matrix.rows)
    b.add(Linear(u, all_three, matrix, bias))
    parts = all_three.split(matrix.rows - 2 * states, states, states)
    for name, each in zip(NORMS, parts, strict=True):
        if mixer.has(name):
            norm = mixer.child(name, "FalconMambaWeightlessRMSNorm", "JambaRMSNorm")
            weight = norm.vector("weight") if "weight" in norm.module._parameters else None
            b.add(Norm(each, each, weight, epsilon(norm), each.size))
    return parts
