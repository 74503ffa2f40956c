"""Convex hulls by pointing: a network that points at its inputs names .78 of the hulls of 5 points exactly, .48 of 10.

The output of a pointer network is a sequence of its inputs: a decoder LSTM attends to the states of an encoder LSTM,
and the attention itself is the distribution of the next element. Fed with the points of 5 to 8 corners, sorted by x,
it learns their convex hulls, counter-clockwise from the leftmost point. After 1200 batches of 128 it names at least
.7 of the hulls of 5 points exactly, and .4 of those of 10, more than it has ever seen; what it names covers .97 of
the area at both sizes.

Both recurrences are `fastiter.torch.nn.LSTM`, in place of torch.nn's.

    python examples/papers/pointer_hull.py  # 20 seconds to 6 minutes; writes pointer_hull.png next to this file

:Paper: Pointer Networks (2015), arXiv 1506.03134
:Shows: convex hulls by pointing, and longer inputs than those of the training
:Does not show: the paper's million samples and 50 points, unsorted inputs, Delaunay triangulations and tours
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import OURS, command_line, figure_option, option, progress, save
from matplotlib import pyplot
from scipy.spatial import ConvexHull
from torch import Tensor
from torch.nn import functional

from fastiter.torch import nn

WIDTH, BATCH, RATE, LARGEST = 64, 128, 4e-3, 2.0
TRAINED, TESTED = (5, 8), (5, 10)


@dataclass(frozen=True)
class Options:
    steps: int = option(1200, "batches of the training", 60)
    tests: int = option(1000, "sets of points to test, of each size", 200)
    figure: Path = figure_option(__file__)


def hulls(points: Any) -> Any:
    """The convex hulls (sets, n + 1) of points (sets, n, 2) sorted by x, as positions from 1; then zeros.

    From each corner the next one is that with the smallest turn to the left, as when wrapping a gift.
    """
    sets, n = points.shape[:2]
    rows, at, found = np.arange(sets), np.zeros(sets, int), np.zeros((sets, n + 1), int)
    heading, is_open = np.full(sets, -np.pi / 2), np.ones(sets, bool)
    for corner in range(n):
        found[is_open, corner] = at[is_open] + 1
        edges = points - points[rows, at][:, None]
        angles = np.arctan2(edges[:, :, 1], edges[:, :, 0])
        turns = np.mod(angles - heading[:, None], 2 * np.pi)
        turns[rows, at] = np.inf
        at = turns.argmin(axis=1)
        heading = angles[rows, at]
        is_open &= at > 0
    return found


def sample(rng: np.random.Generator, sets: int, n: int) -> tuple[Tensor, Tensor]:
    """Points in the unit square, sorted by x, and their hulls."""
    points = rng.random((sets, n, 2))
    points = np.take_along_axis(points, points[:, :, :1].argsort(axis=1), axis=1)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(hulls(points))


class Pointer(torch.nn.Module):
    """Two LSTMs and an attention; position 0 is the end."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (nn.LSTM(2, WIDTH, batch_first=True) for _ in range(2))
        self.end, self.start = (torch.nn.Parameter(0.1 * torch.randn(size)) for size in (WIDTH, 2))
        self.of_inputs, self.of_state = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.score = torch.nn.Linear(WIDTH, 1, bias=False)

    def encode(self, points: Tensor) -> tuple[Tensor, Any]:
        """The places to point at (sets, n + 1, width), and the decoder's first state."""
        states, last = self.encoder(points)
        return self.of_inputs(torch.cat([self.end.expand(len(points), 1, -1), states], 1)), last

    def point(self, keys: Tensor, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The scores (sets, steps, n + 1) of a sequence of inputs to the decoder, and its last state."""
        hidden, state = self.decoder(inputs, state)
        return self.score(torch.tanh(keys[:, None] + self.of_state(hidden)[:, :, None]))[..., 0], state

    def forward(self, points: Tensor, target: Tensor) -> Tensor:
        """The mean loss of the elements of the hulls and their ends, given those before."""
        keys, state = self.encode(points)
        given = torch.take_along_dim(points, (target[:, :-1, None] - 1).clamp(min=0), 1)
        inputs = torch.cat([self.start.expand(len(points), 1, 2), given], 1)
        scores, _ = self.point(keys, inputs, state)
        is_open = functional.pad(target[:, :-1] > 0, (1, 0), value=True)
        return functional.cross_entropy(scores[is_open], target[is_open])

    @torch.no_grad()
    def decode(self, points: Tensor) -> Tensor:
        """The most probable element at each step, as hulls."""
        (keys, state), steps = self.encode(points), points.shape[1] + 1
        inputs, found = self.start.expand(len(points), 1, 2), torch.zeros(len(points), steps, dtype=torch.long)
        is_open = torch.ones(len(points), dtype=torch.bool)
        for step in range(steps):
            scores, state = self.point(keys, inputs, state)
            chosen = scores[:, 0].argmax(1)
            is_open = is_open & (chosen > 0)
            found[:, step] = torch.where(is_open, chosen, 0)
            inputs = torch.take_along_dim(points, (chosen - 1).clamp(min=0)[:, None, None], 1)
        return found


def areas(points: Tensor, corners: Tensor) -> Any:
    """The areas of polygons, by the shoelace formula; a position of 0 repeats the first corner."""
    first = torch.where(corners > 0, corners, corners[:, :1])
    at = torch.take_along_dim(points, (first[:, :, None] - 1).clamp(min=0), 1)
    after = at.roll(-1, 1)
    return ((at[..., 0] * after[..., 1] - at[..., 1] * after[..., 0]).sum(1) / 2).abs()


def train(options: Options) -> tuple[Pointer, list[float]]:
    """Return the network, and the loss of each batch."""
    torch.manual_seed(0)
    model, rng, losses = Pointer(), np.random.default_rng(0), []
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    with progress(options.steps, "batches") as bar:
        for _ in range(options.steps):
            loss = model(*sample(rng, BATCH, int(rng.integers(TRAINED[0], TRAINED[1] + 1))))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST)
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.update()
    return model, losses


def check_hulls(rng: np.random.Generator) -> None:
    """Compare with Qhull, whose corners are counter-clockwise, too."""
    points, found = sample(rng, 100, 10)
    for each, corners in zip(points, found, strict=True):
        expected = ConvexHull(each).vertices
        at = int(np.flatnonzero(expected == 0)[0])
        assert (np.roll(expected, -at) + 1).tolist() == corners[corners > 0].tolist()


def main(options: Options) -> None:
    torch.set_num_threads(1)
    check_hulls(np.random.default_rng(1))
    model, losses = train(options)
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    panels[0].plot(losses, color=OURS, linewidth=1)
    panels[0].set(
        xlabel="batches", ylabel="cross-entropy of an element", title="Training, 5 to 8 points", ylim=(0, None)
    )
    exact, cover = {}, {}
    for axes, n in zip(panels[1:], TESTED, strict=True):
        points, target = sample(np.random.default_rng(1000 + n), options.tests, n)
        found = model.decode(points)
        exact[n] = float((found == target).all(1).double().mean())
        cover[n] = float((areas(points, found) / areas(points, target)).mean())
        print(f"{n:3} points: {exact[n]:.3f} exact, area {cover[n]:.3f}")
        for corners, style, name in ((target[0], "k:", "hull"), (found[0], "-", "pointed at")):
            some = corners[corners > 0] - 1
            axes.plot(*points[0][torch.cat([some, some[:1]])].T, style, label=name)
        axes.plot(*points[0].T, "o", color=OURS)
        axes.set(xlabel="x", ylabel="y", title=f"{n} points: {exact[n]:.2f} exact, area {cover[n]:.2f}")
    panels[1].legend()
    assert losses[-1] < losses[0]
    if options.steps >= 1200:
        assert exact[5] >= 0.77 and exact[10] >= 0.47 and min(cover.values()) >= 0.97
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
