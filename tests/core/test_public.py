"""The names that a user sees, and what `import fastiter` brings in."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("fastiter", "fastiter.quant", "fastiter.relax", "fastiter.ssm", "fastiter.rnn", "fastiter.scan")
WITH_TORCH = (
    "fastiter.torch",
    "fastiter.torch.nn",
    "fastiter.torch.quant",
    "fastiter.torch.ssm",
    "fastiter.torch.compat",
)


@pytest.mark.parametrize("name", PACKAGES + WITH_TORCH)
def test_dir_lists_public_names_alone(name: str) -> None:
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


def test_without_torch_the_message_says_what_to_install() -> None:
    program = "import sys; sys.modules['torch'] = None; import fastiter; fastiter.torch"
    expected = "fastiter.torch needs PyTorch, which is not installed: pip install fastiter-kernels[torch]"
    assert run(program).splitlines()[-1] == f"ModuleNotFoundError: {expected}"
    assert run(program.replace("fastiter; fastiter", "fastiter")).splitlines()[-1].endswith(expected)


def test_an_error_inside_of_torch_is_not_hidden() -> None:
    pytest.importorskip("torch")
    program = "import sys; sys.modules['torch._C'] = None; import fastiter; fastiter.torch"
    assert "fastiter-kernels" not in run(program)
