"""Print the plans of one GPU as a table: python -m fastiter.tune H100 --cell lstm --batch 16 --dtype bfloat16."""

from __future__ import annotations

import argparse

from . import DEVICES, RnnPlan, rnn_plan
from ._rnn_plan import CELLS, ITEMSIZE, Cell, Dtype

WIDTHS = (16, 32, 64, 100, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
HEADER = "| N x D | pass | variant | grid | warps | units | batch tile | r: registers, shared | registers | KiB | us |"


def row(plan: RnnPlan) -> str:
    """Return a plan as a row of the table."""
    way = "backward" if plan.backward else "forward"
    head = f"| {plan.heads} x {plan.width} | {way} | {plan.variant} |"
    if plan.variant == "alternating":
        return f"{head} | | | | | | | {plan.microseconds:.2f} |"
    grid = " x ".join(map(str, plan.grid)) + (f", {plan.passes} times" if plan.passes > 1 else "")
    return (
        f"{head} {grid} | {plan.row_warps} x {plan.depth_warps} | {plan.units} | {plan.batch_tile} | "
        f"{plan.fragments_registers}, {plan.fragments_shared} | {plan.registers} | {plan.shared / 1024:.0f} | "
        f"{plan.microseconds:.2f} |"
    )


def table(device: str, cell: Cell, batch: int, dtype: Dtype, units: int) -> str:
    """Return the table; each width has as many heads as ``units`` allow."""
    shapes = [(max(1, units // width), width, backward) for width in WIDTHS for backward in (False, True)]
    plans = [
        rnn_plan(DEVICES[device], cell=cell, heads=n, width=d, batch=batch, dtype=dtype, backward=b)
        for n, d, b in shapes
    ]
    return "\n".join([HEADER, "|---" * 11 + "|", *map(row, plans)])


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m fastiter.tune", description=__doc__)
    parser.add_argument("device", choices=DEVICES)
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=ITEMSIZE, default="bfloat16")
    parser.add_argument("--units", type=int, default=768, help="N * D; a head that is wider is alone")
    options = parser.parse_args()
    print(table(options.device, options.cell, options.batch, options.dtype, options.units))


if __name__ == "__main__":
    main()
