"""The statements in the documentation about transformers' own ways to other kernels."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", minversion="5.24")

from transformers.integrations import hub_kernels  # noqa: E402
from transformers.models.mamba import modeling_mamba  # noqa: E402
from transformers.utils import import_utils  # noqa: E402

from tests.accelerate.models import make  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs/accelerate/models.md"
FALLBACK = "use_kernel_func_from_hub_with_fallback"


def section() -> str:
    return PAGE.read_text().partition("## transformers' own kernels\n")[2].partition("\n## ")[0]


def test_other_implementations_come_from_packages_with_fixed_names() -> None:
    """A function's only sources are its package, by name, and the package kernels."""
    of_decorator = inspect.signature(getattr(hub_kernels, FALLBACK)).parameters
    assert list(of_decorator) == ["func_name", "package", "internal_path"]
    sources = Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
    found = [re.findall(rf'@{FALLBACK}\(\s*"\w+",\s*"(\w+)"', source.read_text()) for source in sources]
    packages = {package for each in found for package in each}
    assert packages == {"mamba_ssm", "causal_conv1d", "fla"} and all(f"`{name}`" in section() for name in packages)


def test_the_package_kernels_is_used_on_request_only() -> None:
    assert make("Mamba").use_kernels is False
    versions = re.search(r"\((\S+) for transformers (\S+)\)", section())
    assert versions is not None
    if transformers.__version__.startswith(f"{versions[2]}."):
        assert import_utils.KERNELS_MIN_VERSION.startswith(f"{versions[1]}.")
    if not import_utils.is_kernels_available():
        with pytest.raises(RuntimeError, match="requires `kernels` to be installed"):
            hub_kernels.register_kernel_mapping({})


def test_importing_fastiter_changes_no_function() -> None:
    import fastiter.torch  # noqa: F401

    package = inspect.getclosurevars(modeling_mamba.mamba_selective_scan).nonlocals
    if import_utils._is_package_available("mamba_ssm")[0]:
        pytest.skip("mamba_ssm is installed")
    assert package["implementation"] is package["torch_function"]
