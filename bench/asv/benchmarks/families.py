"""One cheap case per family, which slows down whenever a change slows down the family."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastiter
from fastiter import bcd, fixedpoint, mdp, quant, relax, ssm, tune
from fastiter.decode._pack import pack


def normal(*shape: int) -> Any:
    """Return standard normal numbers in float32, the same ones every time."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class OneThread:
    """Base of all cases: sets the number of threads to one."""

    def setup(self) -> None:
        fastiter.set_num_threads(1)


class Rnn(OneThread):
    """16 sequences of 64 steps, 128 units."""

    def setup(self) -> None:
        super().setup()
        self.wx, self.r = normal(16, 64, 4, 1, 128), normal(4, 1, 128, 128) / 12

    def time_lstm(self) -> None:
        fastiter.lstm(self.wx, self.r)

    def time_small_gru(self) -> None:
        """A call that takes microseconds: mostly its checks."""
        fastiter.gru(self.wx[:1, :2, :3, :, :8], self.r[:3, :, :8, :8])


class Scan(OneThread):
    """4 sequences of 1,024 steps, 256 channels."""

    def setup(self) -> None:
        super().setup()
        self.a, self.x = np.tanh(normal(4, 1024, 256)), normal(4, 1024, 256)

    def time_linear_scan(self) -> None:
        fastiter.linear_scan(self.a, self.x)


class Delta(OneThread):
    """2 sequences of 256 steps, 2 heads of width 64."""

    def setup(self) -> None:
        super().setup()
        self.q, self.v, self.beta = normal(2, 256, 2, 64), normal(2, 256, 2, 64), np.abs(np.tanh(normal(2, 256, 2)))
        self.k = self.q / np.linalg.norm(self.q, axis=-1, keepdims=True)

    def time_delta_scan(self) -> None:
        fastiter.delta_scan(self.q, self.k, self.v, self.beta)


class Ssm(OneThread):
    """2 sequences of 512 steps."""

    def setup(self) -> None:
        super().setup()
        self.u, self.delta, self.A = normal(2, 64, 512), np.abs(normal(2, 64, 512)), -np.abs(normal(64, 16))
        self.B, self.C = normal(2, 16, 512), normal(2, 16, 512)
        self.q, self.gates = normal(2, 512, 2, 32), normal(2, 512, 2)

    def time_selective_scan(self) -> None:
        ssm.selective_scan(self.u, self.delta, self.A, self.B, self.C)

    def time_linear_attention(self) -> None:
        ssm.linear_attention(self.q, self.q, self.q, -np.abs(self.gates))

    def time_mlstm(self) -> None:
        ssm.mlstm(self.q, self.q, self.q, self.gates, self.gates)


class Newton(OneThread):
    """4 sequences of 512 steps, 128 units."""

    def setup(self) -> None:
        super().setup()
        self.wx, self.a = normal(4, 512, 3, 128), np.tanh(normal(3, 128))

    def time_paragru(self) -> None:
        fastiter.paragru(self.wx, self.a)


class Quant(OneThread):
    """2^18 numbers, and a product of 64 x 256 with 256 x 64."""

    def setup(self) -> None:
        super().setup()
        self.x, self.left, self.right = normal(1024, 256), normal(64, 256), normal(256, 64)

    def time_quantize(self) -> None:
        quant.quantize(self.x, "e4m3fn")

    def time_quant_matmul(self) -> None:
        quant.quant_matmul(self.left, self.right, "e4m3fn", "e4m3fn", "fixed<24,12,RND,SAT>")


class Relax(OneThread):
    """A five-point Laplacian on 128 x 128 points."""

    def setup(self) -> None:
        super().setup()
        self.stencil = relax.Stencil((128, 128), np.array([4.0, -1, -1, -1, -1]))
        self.A, self.b, self.x = self.stencil.tocsr(), np.ones(128 * 128), np.zeros(128 * 128)
        self.sor = relax.Relaxation(self.A, "sor", omega=1.9, order="red-black")

    def time_prepare(self) -> None:
        relax.Relaxation(self.A, "sor", omega=1.9, order="red-black")

    def time_sweeps(self) -> None:
        self.sor.sweep(self.x, self.b, 20)


class Mdp(OneThread):
    """A grid of 32 x 32 states."""

    def setup(self) -> None:
        super().setup()
        self.process = mdp.examples.gridworld(32, 0.95)

    def time_solve(self) -> None:
        self.process.solve()


class Fixedpoint(OneThread):
    """A contraction of 64 samples of 64 numbers, projections of 64 rows, and updates of a Hopfield network."""

    def setup(self) -> None:
        super().setup()
        self.M, self.b = 0.5 * np.linalg.qr(normal(64, 64))[0], normal(64, 64)

    def time_anderson(self) -> None:
        fixedpoint.fixed_point(lambda x: np.tanh(x @ self.M + self.b), np.zeros_like(self.b), compact=False)

    def time_simplex(self) -> None:
        fixedpoint.prox.project_simplex(self.b)

    def time_hopfield(self) -> None:
        fixedpoint.hopfield_update(self.b, self.M, steps=4)


class Bcd(OneThread):
    """A lasso with 200 rows and 500 columns."""

    def setup(self) -> None:
        super().setup()
        A = normal(200, 500)
        self.problem = bcd.LeastSquares(A, A[:, :5].sum(axis=1), l1=20.0)

    def time_solve(self) -> None:
        bcd.bcd(self.problem, stop="gap", rtol=1e-6)


class Decode(OneThread):
    """A packed matrix of 1024 x 1024, and one vector."""

    def setup(self) -> None:
        super().setup()
        self.packed, self.x = pack(normal(1024, 1024), "int4"), normal(1024)

    def time_product(self) -> None:
        self.packed.product(self.x)


class Tune(OneThread):
    """A small problem of the constraint solver."""

    def time_solve(self) -> None:
        tune.solve("rows * columns >= 60; rows in 1..64; columns in [8, 16, 32]", minimize="rows + columns")
