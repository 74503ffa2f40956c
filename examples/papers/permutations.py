"""Permutations learned exactly: from k training inputs, a wide network is right on all 2^k - 1 inputs of k bits.

A network of two layers with ReLU, infinitely wide, is trained on the k inputs with a single one, whose targets are
the permuted inputs. Its outputs are then a Gaussian process whose mean and covariance have closed forms in the
kernels of the width's limit. On an input with n ones the mean takes one value where the target is 1 and another, at
most 0, where it is 0, and both depend on n only. Rounding at half the smallest value of the first kind, that of n =
k, is right on every bit of every input: 31, 1023 and 32,767 of them for k = 5, 10, 15, all of which are checked.

One network is right only on average: the mean of M networks has a covariance smaller by M. The M for which 200 random
inputs are all right with probability .95 grows no faster than k^2 log k.

    python examples/papers/permutations.py  # seconds; writes permutations.png next to this file

:Paper: Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic Training Size and Quadratic Ensemble
    Complexity (2025), arXiv 2502.16763
:Shows: exactness of the mean on all inputs, and how many networks an ensemble needs
:Does not show: networks of finite width trained by gradient descent, which only approximate this limit
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

#: Means of the bits that should be 1 and 0, for inputs with n ones; of those with all ones only the first
KNOWN = {(5, 1): (1, 0), (5, 2): (0.5606, -0.0146), (5, 3): (0.4111, -0.0320), (5, 5): (0.2639, None)}
KNOWN |= {
    (10, 2): (0.56542, -0.00985),
    (10, 3): (0.42156, -0.02155),
    (10, 10): (0.14039, None),
    (15, 15): (0.09427, None),
}
INPUTS, RIGHT = 200, 0.95


@dataclass(frozen=True)
class Options:
    bits: tuple[int, ...] = option((5, 10, 15), "bits of the inputs", (5, 8))
    ensembles: tuple[int, ...] = option((5, 7, 10, 14, 20), "bits for the sizes of ensembles", (5, 7))
    draws: int = option(400, "draws of all outputs", 100)
    figure: Path = figure_option(__file__)


def kernels(x: Any, y: Any) -> tuple[Any, Any]:
    """The neural tangent kernel and the covariance of the outputs at the start, of rows of length 1."""
    inner = np.clip(x @ y.T, -1, 1)
    angle = np.arccos(inner)
    at_start = (np.sin(angle) + (np.pi - angle) * inner) / (2 * np.pi)
    return inner * (np.pi - angle) / (2 * np.pi) + at_start, at_start


def binary_inputs(bits: int) -> Any:
    """All inputs of k bits that are not 0, (2^k - 1, k)."""
    return (np.arange(1, 2**bits)[:, None] >> np.arange(bits)) & 1


def trained(bits: int, permutation: Any, inputs: Any) -> Any:
    """The mean outputs after training on the unit vectors, whose targets are the permuted ones."""
    x = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    unit = np.eye(bits)
    return np.linalg.solve(kernels(unit, unit)[0], kernels(unit, x)[0]).T @ unit[:, permutation]


def check_all_inputs(bits: int) -> tuple[Any, Any]:
    """Return the means of ones and of zeros for n = 1 .. k ones; nothing else occurs, and rounding is exact."""
    permutation = np.random.default_rng(bits).permutation(bits)
    inputs = binary_inputs(bits)
    mean, target = trained(bits, permutation, inputs), inputs[:, permutation]
    ones = inputs.sum(axis=1)
    high, low = np.zeros(bits + 1), np.zeros(bits + 1)
    for n in range(1, bits + 1):
        values, is_one = mean[ones == n], target[ones == n] == 1
        high[n], low[n] = values[is_one].mean(), values[~is_one].mean() if n < bits else 0.0
        assert np.abs(np.where(is_one, high[n], low[n]) - values).max() <= 1e-12
    assert (low <= 1e-12).all() and (np.diff(high[1:]) < 0).all()
    assert ((mean > high[bits] / 2) == (target == 1)).all()
    for (k, n), (one, zero) in KNOWN.items():
        if k == bits:
            assert abs(high[n] - one) <= 1e-4 and (zero is None or abs(low[n] - zero) <= 1e-4)
    print(f"{bits:3} bits: exact on {len(inputs):,} inputs; bits that should be 1 have at least {high[bits]:.5f}")
    return high[1:], low[1:-1]


def networks_needed(bits: int, draws: int) -> int:
    """The smallest ensemble of the form 2^(i/2) that is right on all random inputs with probability .95.

    The outputs of one network are Gaussian and independent, with this covariance between inputs; that of the mean of an
    ensemble is smaller by its size, so that the same draws serve all sizes.
    """
    rng = np.random.default_rng(bits)
    inputs = rng.integers(0, 2, (INPUTS, bits))
    inputs[inputs.sum(axis=1) == 0, 0] = 1
    x, unit = inputs / np.linalg.norm(inputs, axis=1, keepdims=True), np.eye(bits)
    weights = np.linalg.solve(kernels(unit, unit)[0], kernels(unit, x)[0]).T
    cross, within = kernels(x, unit)[1] @ weights.T, weights @ kernels(unit, unit)[1] @ weights.T
    covariance = kernels(x, x)[1] - cross - cross.T + within
    values, vectors = np.linalg.eigh(covariance)
    noise = (vectors * np.sqrt(np.maximum(values, 0))) @ rng.standard_normal((draws, INPUTS, bits))
    smallest = trained(bits, np.arange(bits), np.ones((1, bits)))[0, 0]
    margin = np.where(inputs == 1, 1, -1) * (trained(bits, np.arange(bits), inputs) - smallest / 2)
    needed = (np.maximum(-np.where(inputs == 1, 1, -1) * noise, 0) / margin).max(axis=(1, 2)) ** 2
    return int(np.ceil(np.quantile(needed, RIGHT)))


def main(options: Options) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for bits in options.bits:
        high, low = check_all_inputs(bits)
        (line,) = left.plot(np.arange(1, bits + 1), high, "o-", label=f"{bits} bits")
        left.plot(np.arange(1, bits), low, "x-", color=line.get_color())
    sizes = [networks_needed(bits, options.draws) for bits in options.ensembles]
    scale = [bits**2 * np.log(bits) for bits in options.ensembles]
    for bits, size, unit in zip(options.ensembles, sizes, scale, strict=True):
        print(f"{bits:3} bits: {size:5} networks, {size / unit:.2f} k^2 log k")
    growth = np.array(sizes) / scale
    assert (np.diff(growth) <= 0).all()
    left.axhline(0, color="0.7", linewidth=1, zorder=0)
    left.set(xlabel="ones in the input", ylabel="mean output", title="Where the target is 1 (o) and 0 (x)")
    left.legend()
    right.loglog(options.ensembles, sizes, "o-", label=f"all of {INPUTS} inputs right, {RIGHT}")
    right.loglog(options.ensembles, growth[0] * np.array(scale), "k:", label="k^2 log k")
    right.set(xlabel="bits, k", ylabel="networks in the ensemble", title="Ensembles")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
