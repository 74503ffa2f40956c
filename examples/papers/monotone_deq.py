"""Classify digits with monotone equilibrium networks, fully connected and convolutional, and compare splittings.

The layer is z = relu(W z + U x + b) with I - W at least m I, whatever its parameters are, so that z exists, is unique
and is found by operator splitting from any start. It is trained on scikit-learn's digits and compared with a plain
network with as many parameters: it classifies 98.6 % of 497 digits correctly fully connected and 98.4 % convolutional,
the plain networks 97.6 and 98.2 %, from one seed each.

Two splittings find the same z: a forward-backward step is a product with W; a Peaceman-Rachford step is a product
with the inverse of I + alpha (I - W), which is computed once for all images and steps. At first both layers need 11
steps of the latter and 30 of the former. Training makes W larger: in the end the convolutional layer needs 15 and 83,
but the fully connected layer 49 and 27.

    python examples/papers/monotone_deq.py  # 20 seconds to 6 minutes; writes monotone_deq.png next to this file
    python examples/papers/monotone_deq.py --help

:Paper: Monotone Operator Equilibrium Networks (2020), arXiv 2006.08591
:Shows: a unique state whatever the start, by two splittings with different numbers of steps
:Does not show: CIFAR-10, SVHN and MNIST
:Starts from: a map
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, moving_mean, option, progress, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastiter import ConvergenceWarning
from fastiter.torch.nn import MonotoneDEQ

TRAINED_ON = 1300  # out of 1797 images
M = 0.5  # the monotone layers' parameter m
FB, PR = "forward-backward", "peaceman-rachford"


@dataclass(frozen=True)
class Options:
    steps: int = option(300, "training steps", 20)
    batch: int = option(64, "images in a batch", 16)
    every: int = option(20, "training steps between two comparisons of the splittings", 10)
    width: int = option(64, "features of the fully connected layer", 16)
    channels: int = option(12, "channels of the convolutional layer", 4)
    figure: Path = figure_option(__file__)


class Classifier(nn.Module):
    """Digits from a layer, whose output images are averaged over 2 x 2 pixels."""

    def __init__(self, layer: nn.Module, is_image: bool, width: int) -> None:
        super().__init__()
        self.layer, self.is_image = layer, is_image
        self.readout = nn.Linear(width * (16 if is_image else 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x.unsqueeze(1) if self.is_image else x.flatten(1))
        digits: Tensor = self.readout(nn.functional.avg_pool2d(z, 2).flatten(1) if self.is_image else z)
        return digits


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def plain(is_image: bool, width: int, size: int) -> nn.Module:
    """Two layers whose width makes their number of parameters closest to a given one."""

    def wide_model(inner: int) -> nn.Module:
        if is_image:
            first = nn.Conv2d(1, inner, 3, padding=1, padding_mode="circular")
            second: nn.Module = nn.Conv2d(inner, width, 3, padding=1, padding_mode="circular")
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        return nn.Sequential(nn.Linear(64, inner), nn.ReLU(), nn.Linear(inner, width), nn.ReLU())

    return min((wide_model(inner) for inner in range(1, 200)), key=lambda each: abs(size_of(each) - size))


@dataclass
class Run:
    model: Classifier
    losses: list[float] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)  # the training steps at which splitting steps are counted
    splittings: dict[str, list[float]] = field(default_factory=lambda: {FB: [], PR: []})
    accuracy: float = 0.0


def load() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.from_numpy((digits.images[order] / 16).astype(np.float32))
    return images, torch.from_numpy(digits.target[order].astype(np.int64))


def monotone_layer(is_image: bool, width: int) -> MonotoneDEQ:
    kernel = 3 if is_image else None
    return MonotoneDEQ(1 if is_image else 64, width, kernel, m=M, rtol=1e-4, max_steps=300, adjoint={"rtol": 1e-3})


# ---- Comparing splittings -------------------------------------------------------------------------------------------


def spectral_norm(layer: MonotoneDEQ, is_image: bool) -> float:
    """The Lipschitz constant of I - W."""
    W = layer.W((8, 8) if is_image else None).detach()
    return float(torch.linalg.matrix_norm(torch.eye(W.shape[-1]) - W, 2).max())


@torch.no_grad()
def solved(run: Run, x: Tensor, splitting: Any, alpha: float, **options: Any) -> tuple[Tensor, float]:
    """The output of the layer for x by plain steps of a splitting, and their mean number; inf without convergence."""
    layer: Any = run.model.layer
    before = layer.splitting, layer.alpha, layer.solver
    z0 = options.pop("z0", None)
    layer.splitting, layer.alpha = splitting, alpha
    layer.solver = {"method": "picard", "rtol": 1e-4, "max_steps": 500, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as inf
        z = layer(x.unsqueeze(1) if run.model.is_image else x.flatten(1), z0)
    fixed_point_solution = layer.solution
    layer.splitting, layer.alpha, layer.solver = before
    return z, float(fixed_point_solution.steps.float().mean()) if bool(fixed_point_solution.converged.all()) else float(
        "inf"
    )


def best(run: Run, x: Tensor, splitting: Any) -> tuple[float, float]:
    """The alpha among powers of 2 with the fewest steps, and that number of steps."""
    tried = [(solved(run, x, splitting, 2.0**-k)[1], 2.0**-k) for k in range(6)]
    steps, alpha = min(tried)
    return steps, alpha


def train(model: Classifier, name: str, options: Options, bar: Any) -> Run:
    run, (images, labels) = Run(model), load()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(options.steps):
        chosen = torch.randint(TRAINED_ON, (options.batch,), generator=generator)
        if isinstance(model.layer, MonotoneDEQ) and step % options.every == 0:
            run.counted.append(step)
            for splitting in (FB, PR):
                run.splittings[splitting].append(best(run, images[chosen[:16]], splitting)[0])
        loss = cross_entropy(model(images[chosen]), labels[chosen])
        run.losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    with torch.no_grad():
        right = model(images[TRAINED_ON:]).argmax(1) == labels[TRAINED_ON:]
    run.accuracy = right.float().mean().item()
    return run


def check(name: str, run: Run) -> None:
    """Check that starts a hundred times as large as the state, and both splittings, give the same state."""
    x = load()[0][TRAINED_ON : TRAINED_ON + 16]
    layer: Any = run.model.layer
    norm = spectral_norm(layer, run.model.is_image)
    expected, _ = solved(run, x, PR, 1.0, rtol=1e-6)
    size, worst = float(expected.abs().max()), 0.0
    for seed in range(5):
        start = 100 * size * torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
        for splitting in (FB, PR):
            z, steps = solved(run, x, splitting, best(run, x, splitting)[1], rtol=1e-6, max_steps=2000, z0=start)
            assert np.isfinite(steps)
            worst = max(worst, float((z - expected).abs().max()) / size)
    assert worst < 1e-3
    (fb, small), (pr, large) = best(run, x, FB), best(run, x, PR)
    print(f"{name}: ||I - W|| = {norm:.1f}, the same state from ten starts within {worst:.0e}")
    print(f"    {fb:.0f} steps of {FB} with alpha = {small:g}, {pr:.0f} of {PR} with alpha = {large:g}")


def draw(runs: dict[str, Run], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, run), style in zip(runs.items(), ("-", "-", "--", "--"), strict=True):
        color = OURS if run.counted else OTHERS
        curve = moving_mean(run.losses, max(len(run.losses) // 20, 1))
        left.semilogy(*curve, color=color, linestyle=style, label=f"{name}: {100 * run.accuracy:.1f} %")
        for splitting, shade in zip((FB, PR), (THEIRS, OURS), strict=True):
            if run.counted:
                label = f"{splitting}, {name.split(', ')[1]}"
                right.semilogy(run.counted, run.splittings[splitting], color=shade, linestyle=style, label=label)
    left.set(xlabel="step of training", ylabel="cross-entropy", title="Digits: accuracy on 497 images")
    right.set(xlabel="step of training", ylabel="steps to a state within 1e-4", title="With the best of six alpha")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(1)  # the layers are too small for two threads
    runs: dict[str, Run] = {}
    print(f"{'':28}{'accuracy':>14}{'parameters':>12}")
    with progress(4 * options.steps, "steps") as bar:
        for kind, width in (("dense", options.width), ("convolutional", options.channels)):
            torch.manual_seed(0)
            is_image = kind == "convolutional"
            monotone = monotone_layer(is_image, width)
            for name, layer in (("monotone", monotone), ("plain", plain(is_image, width, size_of(monotone)))):
                title = f"{name}, {kind}"
                runs[title] = run = train(Classifier(layer, is_image, width), title, options, bar)
                bar.write(f"{title:28}{100 * run.accuracy:12.1f} %{size_of(run.model):12,}")
    for title, run in runs.items():
        if run.counted:
            check(title, run)
    draw(runs, options.figure)


if __name__ == "__main__":
    main()
