"""The numbers of causal convolutions as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import REUSED, Record
from bench.ssm.conv_cases import CHANNELS, MODELS, ROWS

FORWARD_GOALS = {ROWS: 7.0, CHANNELS: 9.0}  # by the contiguous axis
GRADIENT_GOAL = {MODELS: {REUSED: 6.0}}
STEP_GOAL = {MODELS: {REUSED: 8.0}}
SHARE_GOAL = 0.6
COPY = "The bandwidth is that of the best of several copies of the same number of bytes."


def forward_markdown(records: Sequence[Record]) -> list[str]:
    parts = []
    for order, goal in FORWARD_GOALS.items():
        own = [r for r in records if r["work"].endswith(order)]
        parts += tables.peers_markdown(own, {MODELS: {REUSED: goal}}, "forward")
    return parts


def markdown(results: Record) -> str:
    shares = {r["work"]: SHARE_GOAL for r in results.get("share", ()) if r["work"].endswith(ROWS)}
    return tables.document(
        results,
        {
            "inference": forward_markdown,
            "peers": lambda records: tables.peers_markdown(records, GRADIENT_GOAL),
            "step": lambda records: tables.peers_markdown(records, STEP_GOAL, "one step"),
            "share": lambda records: tables.share_markdown(records, shares, COPY),
        },
    )
