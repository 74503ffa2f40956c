"""The walks of public calls through the package do not grow beyond recorded limits; the script prints them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.core import walks

#: The numbers of functions, files and changes of file of each call: lower them when a walk becomes shorter
LIMITS = {
    "fastiter.lstm": (16, 5, 10),
    "fastiter.linear_scan": (18, 5, 14),
    "quant.quantize": (12, 7, 8),
    "MDP.solve": (29, 12, 17),
    "fixed_point, one step": (33, 9, 27),
    "relax.sor, one step": (55, 14, 40),
    "relax.compat.gauss_seidel": (21, 9, 14),
    "bcd.Lasso.fit": (28, 8, 14),
    "torch.nn.LSTM": (15, 5, 7),
    "torch.nn.LSTM with lengths": (23, 8, 13),
    "torch.nn.LSTM with resets": (21, 8, 12),
    "torch.delta_scan": (27, 9, 19),
    "torch.quant.quantize": (19, 9, 15),
    "torch fixed_point, one step": (54, 14, 38),
    "torch.ssm.selective_scan with its gradient": (45, 10, 35),
}


@pytest.mark.parametrize("needs", walks.CALLS)
def test_walks_do_not_grow(needs: str) -> None:
    pytest.importorskip(needs)
    calls: dict[str, Callable[[], Any]] = walks.CALLS[needs]()
    assert calls.keys() <= LIMITS.keys()
    longer = {}
    for name, call in calls.items():
        found = walks.walk(call)
        if any(number > most for number, most in zip(found, LIMITS[name], strict=True)):
            longer[name] = found
    assert not longer, f"longer than { ({name: LIMITS[name] for name in longer}) }"


def test_a_walk_counts_functions_files_and_changes() -> None:
    assert walks.walk(lambda: None) == (0, 0, 0)
    import fastiter

    assert walks.walk(fastiter.get_num_threads) == (1, 1, 0)


def test_the_script_prints_the_functions_of_a_call() -> None:
    pytest.importorskip("scipy")
    program = "from tests.core import walks; walks.CALLS = {'scipy': walks.matrix_calls}; walks.main('gauss_seidel')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "relax.compat.gauss_seidel" and lines[1].split()[1].startswith("gauss_seidel:")
