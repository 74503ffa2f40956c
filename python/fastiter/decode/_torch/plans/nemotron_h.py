"""NemotronH: each layer is a Mamba-2 mixer, attention without positions, a layer of two products, or experts."""

from __future__ import annotations

from ...builder import Builder
from ...plan import Linear, Plan
from .experts import biased_route, stacked_experts
from .mamba2 import ssd_mixer
from .parts import Frame, Heads, Hidden, linear, model_plan, rms_norm, self_attention
from .source import Part, Source


def nemotron_h(source: Source) -> Plan:
    """Return the plan of a NemotronH."""

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("norm", "NemotronHRMSNorm"), hidden.stream, hidden.x)
        kinds = "NemotronHMamba2Mixer", "NemotronHAttention", "NemotronHMoE", "NemotronHMLP"
        mixer = part.child("mixer", *kinds)
        match kinds.index(type(mixer.module).__name__):
            case 0:
                ssd_mixer(b, mixer, hidden, index, "NemotronHRMSNormGated")
            case 1:
                self_attention(b, mixer, hidden.x, hidden.stream, index, Heads())
            case 2:
                _experts(b, mixer, hidden)
            case 3:
                _mlp(b, mixer, hidden)

    frame = Frame(("model", "NemotronHModel"), "embeddings", ("norm_f", "NemotronHRMSNorm"))
    return model_plan(source, frame, "NemotronHBlock", layer)


def _mlp(b: Builder, part: Part, hidden: Hidden) -> None:
    matrix, bias = part.linear("up_proj")
    inner = b.slot(f"inner.{matrix.rows}", matrix.rows)
    b.add(Linear(hidden.x, inner, matrix, bias, part.activation("act_fn")))
    linear(b, part, "down_proj", inner, hidden.stream, add=True)


def _experts(b: Builder, part: Part, hidden: Hidden) -> None:
    routes = biased_route(b, part.child("gate", "NemotronHTopkRouter"), hidden.x)
    experts = part.child("experts", "NemotronHExperts")
    if type(part.module.fc1_latent_proj).__name__ == "Identity":
        part.ignore("fc1_latent_proj", "Identity")
        part.ignore("fc2_latent_proj", "Identity")
        stacked_experts(b, experts, hidden.x, routes, hidden.stream)
    else:
        size = part.module.fc1_latent_proj.out_features
        x, y = b.slot("latent.x", size), b.slot("latent.y", size)
        linear(b, part, "fc1_latent_proj", hidden.x, x)
        stacked_experts(b, experts, x, routes, y, add=False)
        linear(b, part, "fc2_latent_proj", y, hidden.stream, add=True)
    _mlp(b, part.child("shared_experts", "NemotronHMLP"), hidden)
