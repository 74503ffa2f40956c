"""Many small networks of two layers, trained side by side with gradients by hand, as a loop over runs takes longer."""

from __future__ import annotations

from typing import Any

import numpy as np


def digits() -> tuple[Any, Any]:
    """The images (1797, 64) and their classes, in random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.data[order] / 16).astype(np.float32), data.target[order]


class Networks:
    """ReLU networks of 64 inputs and 64 hidden units; the last row of each matrix of weights has the biases."""

    def __init__(self, rng: np.random.Generator, runs: int, classes: int) -> None:
        shapes = ((runs, 65, 64), (runs, 65, classes))
        self.weights = [(rng.normal(size=shape) * np.sqrt(2 / 64)).astype(np.float32) for shape in shapes]
        self.speed = [np.zeros_like(w) for w in self.weights]

    def outputs(self, x: Any) -> tuple[Any, Any]:
        """The hidden units and the scores of images (..., batch, 64)."""
        first, second = self.weights
        h = np.maximum(x @ first[:, :-1] + first[:, -1:], 0)
        return h, h @ second[:, :-1] + second[:, -1:]

    def gradients(self, x: Any, labels: Any, power: int = 1) -> list[Any]:
        """The gradients of the mean cross-entropy of images (runs, batch, 64), or the means of a power of them."""
        h, z = self.outputs(x)
        p = np.exp(z - z.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        np.put_along_axis(p, labels[:, :, None], np.take_along_axis(p, labels[:, :, None], 2) - 1, 2)
        back = p @ self.weights[1][:, :-1].transpose(0, 2, 1) * (h > 0)
        each = []
        for a, b in ((x, back), (h, p)):
            a, b = (a, b) if power == 1 else (a**power, b**power)  # the power of a product, image by image
            each.append(np.concatenate([a.transpose(0, 2, 1) @ b, b.sum(axis=1, keepdims=True)], axis=1))
        return [g / np.float32(labels.shape[1]) for g in each]

    def step(self, gradients: list[Any], rate: Any, momentum: float) -> None:
        """Follow the gradients; the rate is a number, or one of each network (runs, 1, 1)."""
        for w, v, g in zip(self.weights, self.speed, gradients, strict=True):
            v *= np.float32(momentum)
            v += g
            w -= np.float32(rate) * v

    def accuracy(self, x: Any, labels: Any) -> Any:
        """The share of right answers of each network."""
        return (self.outputs(x)[1].argmax(axis=2) == labels).mean(axis=1)
