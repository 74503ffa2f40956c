"""The builder of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .plan import Operation, Plan, Slot, State


@dataclass
class Builder:
    """Collects the steps, buffers and states of a plan; a name of a buffer has one size in the whole plan."""

    steps: list[Operation] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    #: Whether steps compute a prompt as the model does
    prompts: bool = True

    def slot(self, name: str, size: int) -> Slot:
        """Return the whole buffer ``name``, which is new or has this size."""
        if self.buffers.setdefault(name, size) != size:
            raise ValueError(f"slot: buffer {name!r} must have {self.buffers[name]} numbers, got {size}")
        return Slot(name, 0, size)

    def state(
        self, kind: Any, shape: tuple[int, ...], layer: int, index: int = 0, attribute: str | None = None
    ) -> State:
        """Return a new state."""
        self.states.append(State(f"{kind}.{layer}.{index}", kind, shape, layer, index, attribute))
        return self.states[-1]

    def add(self, *steps: Operation) -> None:
        """Append operations."""
        self.steps += steps

    def plan(self) -> Plan:
        """Return the plan."""
        return Plan(tuple(self.steps), dict(self.buffers), tuple(self.states), self.prompts)
