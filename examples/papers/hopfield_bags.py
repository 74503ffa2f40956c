"""Bags of digits: pooling by a Hopfield network finds bags with a nine as well as the maximum, and shows the image.

A bag is a set of images of scikit-learn's digits; bags have different sizes, and the only label of a bag is whether one
of its images is a nine. `HopfieldPooling` has one learned state, which learns to retrieve the nines of a bag; the
baselines pool by the mean and by the maximum. On bags of other images 87 % of the answers are right with the network
and with the maximum, 74 % with the mean. The image with the largest weight in the association matrix is the nine in
75 % of the bags that have one, although no image has a label; a random image would be in 5 to 12 %.

    python examples/papers/hopfield_bags.py  # 20 seconds to 6 minutes; writes hopfield_bags.png next to this file
    python examples/papers/hopfield_bags.py --help

:Paper: Hopfield Networks Is All You Need (2021), arXiv 2008.02217; Attention-based Deep Multiple Instance Learning
    (2018), arXiv 1802.04712
:Shows: pooling of bags by one learned state, which finds the deciding image without its label
:Does not show: immune repertoires, drug design and MNIST bags
:Starts from: a map
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fastiter.torch.nn import HopfieldPooling

TARGET, LARGEST, SIDE, WIDTH = 9, 20, 8, 64
TRAINED_ON = 1300  # out of 1797 images
POOLS = ("Hopfield", "maximum", "mean")
COLORS = {"Hopfield": OURS, "maximum": THEIRS, "mean": OTHERS}
Bags = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Options:
    bags: int = option(400, "bags to train on", 200)
    tested: int = option(200, "bags to test on", 100)
    epochs: int = option(20, "training epochs", 10)
    seeds: int = option(2, "networks to average over", 1)
    updates: int = option(2, "updates of the state before the association")
    figure: Path = figure_option(__file__)


def make_bags(images: Any, digits: Any, count: int, seed: int) -> Bags:
    """Return images (bags, LARGEST, pixels), the padding mask, the labels of the bags, and which images are nines."""
    rng = np.random.default_rng(seed)
    x, is_padding = np.zeros((count, LARGEST, SIDE * SIDE), np.float32), np.ones((count, LARGEST), bool)
    nines = np.zeros((count, LARGEST), bool)
    others, targets = np.flatnonzero(digits != TARGET), np.flatnonzero(digits == TARGET)
    for i in range(count):
        size = int(rng.integers(8, LARGEST + 1))
        chosen = rng.choice(others, size, replace=False)
        if i % 2:  # one image of the bag is a nine
            chosen[rng.integers(size)] = rng.choice(targets)
        x[i, :size], is_padding[i, :size], nines[i, :size] = images[chosen], False, digits[chosen] == TARGET
    bags: Bags = tuple(map(torch.from_numpy, (x, is_padding, nines.any(axis=1).astype(np.float32), nines)))  # type: ignore[assignment]
    return bags


class Classifier(nn.Module):
    """Features of each image, pooling over the images of a bag, and a logit."""

    def __init__(self, pool: str, updates: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(SIDE * SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.kind, self.out = pool, nn.Linear(WIDTH, 1)
        if pool == "Hopfield":
            self.pool = HopfieldPooling(input_size=WIDTH, num_heads=4, update_steps_max=updates, scaling=1.0)

    def forward(self, x: Tensor, is_padding: Tensor) -> Tensor:
        h = self.features(x)
        if self.kind == "Hopfield":
            z = self.pool(h, stored_pattern_padding_mask=is_padding)
        elif self.kind == "mean":
            z = h.masked_fill(is_padding[..., None], 0).sum(1) / (~is_padding).sum(1, keepdim=True)
        else:
            z = h.masked_fill(is_padding[..., None], -torch.inf).amax(1)
        logit: Tensor = self.out(z).squeeze(1)
        return logit


def accuracy(model: Classifier, bags: Bags) -> float:
    """Return the fraction of bags that are classified correctly."""
    model.eval()
    with torch.no_grad():
        right = (model(bags[0], bags[1]) > 0) == (bags[2] > 0)
    return float(right.float().mean())


def trained(pool: str, seed: int, train: Bags, test: Bags, options: Options) -> tuple[Classifier, list[float]]:
    """Return a trained classifier and its accuracy on the test bags after each epoch."""
    torch.manual_seed(seed)
    model = Classifier(pool, options.updates)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    curve = []
    for _ in range(options.epochs):
        model.train()
        for batch in torch.randperm(len(train[0])).split(32):
            loss = binary_cross_entropy_with_logits(model(train[0][batch], train[1][batch]), train[2][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append(accuracy(model, test))
    return model, curve


def weights_of(model: Classifier, bags: Bags) -> Tensor:
    """Return the weight of each image of each bag, (bags, LARGEST), averaged over the heads."""
    weights = model.pool.get_association_matrix(model.features(bags[0]), bags[1])
    return weights.detach().mean(1).squeeze(1)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(1)  # the layers are too small for two threads
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    train = make_bags(images[:TRAINED_ON], digits[:TRAINED_ON], options.bags, 1)
    test = make_bags(images[TRAINED_ON:], digits[TRAINED_ON:], options.tested, 2)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    reached, share = {}, 0.0
    for pool in POOLS:
        runs = [trained(pool, seed, train, test, options) for seed in range(options.seeds)]
        mean = np.mean([curve for _, curve in runs], axis=0)
        left.plot(np.arange(1, options.epochs + 1), mean, color=COLORS[pool], label=pool)
        reached[pool] = float(mean[-1])
        print(f"{pool:10} accuracy {mean[-1]:.3f} on bags of other images")
        if pool == "Hopfield":
            weights = weights_of(runs[0][0], test)
            has_nine = test[2] > 0
            decided = test[3].gather(1, weights.argmax(1, keepdim=True)).squeeze(1)
            share = float(decided[has_nine].float().mean())
            print(f"{'':10} the image with the largest weight is a nine in {share:.1%} of the bags that hold one")
            right.hist(
                [weights[test[3]].numpy(), weights[~test[3] & ~test[1]].numpy()],
                bins=20,
                density=True,
                color=[OURS, OTHERS],
                label=["nines", "other images"],
            )
    assert share >= 0.6
    if options.bags >= 400:
        assert reached["Hopfield"] >= 0.85 and share >= 0.7
        assert abs(reached["Hopfield"] - reached["maximum"]) <= 0.02 and reached["Hopfield"] >= reached["mean"] + 0.1
    left.set(xlabel="epochs", ylabel="accuracy on test bags")
    left.legend()
    right.set(xlabel="weight of an image in its bag", ylabel="density", yscale="log")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
