"""softsign on tensors: gradients, and the op."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fastiter.example._torch.functional import softsign  # noqa: E402


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
def test_gradients_and_op() -> None:
    x = torch.randn(5, 3, dtype=torch.float64).t().requires_grad_()
    torch.testing.assert_close(softsign(x), torch.nn.functional.softsign(x))
    assert torch.autograd.gradcheck(softsign, x)
    torch.library.opcheck(torch.ops.fastiter._softsign.default, (x.detach(),))
    torch.testing.assert_close(torch.compile(softsign, fullgraph=True, backend="aot_eager")(x), softsign(x))
