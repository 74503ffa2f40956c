"""Prints, as JSON, the arguments of each Triton kernel whose values the compiler specialises on: {kernel: [name]}.

Run as a separate process, as Triton either interprets or compiles.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from triton.runtime.jit import JITFunction

KERNELS = Path(__file__).parents[3] / "kernels"


def specialised(kernel: JITFunction) -> list[str]:
    """Return the arguments that are specialised on a value of 1 or on multiples of 16: integers and pointers."""
    return [p.name for p in kernel.params if not (p.is_constexpr or p.do_not_specialize)]


def main() -> None:
    found = {}
    for path in sorted(KERNELS.glob("*/triton_*.py")):
        module = importlib.import_module(f"fastiter.kernels.{path.parent.name}.{path.stem}")
        for name, kernel in vars(module).items():
            if name.endswith("_kernel") and isinstance(kernel, JITFunction):
                found[f"{path.parent.name}/{name}"] = specialised(kernel)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
