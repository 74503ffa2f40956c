"""The names that a user sees, and the modules that `import fastiter` loads."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys

import numpy as np
import pytest

import fastiter

PACKAGES = tuple(
    f"fastiter{name}"
    for name in ("", ".bcd", ".experimental", ".fixedpoint", ".mdp", ".quant", ".relax", ".ssm", ".rnn", ".scan")
)
WITH_TORCH = (
    "fastiter.torch",
    "fastiter.torch.bcd",
    "fastiter.torch.distributed",
    "fastiter.torch.experimental",
    "fastiter.torch.nn",
    "fastiter.torch.fixedpoint",
    "fastiter.torch.fixedpoint.prox",
    "fastiter.torch.mdp",
    "fastiter.torch.relax",
    "fastiter.torch.quant",
    "fastiter.torch.ssm",
    "fastiter.torch.compat",
)


@pytest.mark.parametrize("name", PACKAGES + WITH_TORCH)
def test_dir_lists_only_public_names(name: str) -> None:
    if name in WITH_TORCH:
        pytest.importorskip("torch")
    package = importlib.import_module(name)
    beside = {"torch"} if name == "fastiter" else set()
    assert set(dir(package)) == set(package.__all__) | beside
    assert all(hasattr(package, public) for public in package.__all__)


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_torch_is_imported_on_first_access() -> None:
    pytest.importorskip("torch")
    program = "import sys, fastiter; print('torch' in sys.modules); fastiter.torch.lstm; print('torch' in sys.modules)"
    assert run(program) == "False\nTrue\n"


def test_without_torch_the_error_names_the_package() -> None:
    program = "import sys; sys.modules['torch'] = None; import fastiter; fastiter.torch"
    expected = "fastiter.torch needs PyTorch, which is not installed: pip install fastiter-kernels[torch]"
    assert run(program).splitlines()[-1] == f"ModuleNotFoundError: {expected}"
    assert run(program.replace("fastiter; fastiter", "fastiter")).splitlines()[-1].endswith(expected)


def test_an_error_inside_torch_is_not_hidden() -> None:
    pytest.importorskip("torch")
    program = "import sys; sys.modules['torch._C'] = None; import fastiter; fastiter.torch"
    assert "fastiter-kernels" not in run(program)


def test_results_have_names_and_unpack() -> None:
    wx, r = np.ones((2, 3, 4, 1, 5)), np.ones((4, 1, 5, 5))
    found = fastiter.lstm(wx, r)
    output, (h, c) = found
    assert found.output is output and found.state[0] is h and found.state[1] is c
    with_states = fastiter.lstm(wx, r, return_all_states=True)
    assert with_states.states[0].shape == with_states.output.shape and len(with_states) == 3
    para = fastiter.paragru(np.ones((2, 3, 3, 4)), np.ones((3, 4)), return_info=True)
    assert para.info.method == "sequential" and para.state[0].shape == (2, 4)


def test_results_survive_export() -> None:
    """torch.export saves a program only if it knows the name of every type that the program returns."""
    torch = pytest.importorskip("torch")
    import fastiter.torch

    class Both(torch.nn.Module):
        def forward(self, wx, r, x, a):  # type: ignore[no-untyped-def]
            return fastiter.torch.lstm(wx, r), fastiter.torch.paragru(x, a)

    given = torch.ones(2, 3, 4, 1, 5), torch.ones(4, 1, 5, 5), torch.ones(2, 3, 3, 4), torch.ones(3, 4)
    file = io.BytesIO()
    torch.export.save(torch.export.export(Both(), given), file)
    file.seek(0)
    recurrent, para = torch.export.load(file).module()(*given)
    assert isinstance(recurrent, fastiter.torch.RnnResult)
    assert torch.equal(recurrent.output, fastiter.torch.lstm(*given[:2]).output)
    assert torch.equal(para.state[0], fastiter.torch.paragru(*given[2:]).state[0])
