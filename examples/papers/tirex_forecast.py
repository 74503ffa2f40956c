"""Forecast the carbon dioxide above Mauna Loa with TiRex, before and after accelerate(model).

TiRex is a forecaster made of sLSTM blocks; the package tirex-ts has its architecture, with the recurrence as a loop of
torch operations, which rounds states and products to bfloat16 in each step. The same model forecasts the same weeks
twice, unchanged and accelerated, with the same roundings, and the quantiles are compared: they differ as much
as TiRex's own do when its biases change in the last bit, and less than one rounding of bfloat16. The series comes with
statsmodels: weekly means from 1958 to 2001, in parts per million.

The published weights are not downloaded. Without --weights the model has the published size, 35 million parameters, and
random weights: its forecasts take as long and mean nothing. With the file model.ckpt of NX-AI/TiRex they are forecasts.

    python examples/papers/tirex_forecast.py  # 20 seconds to 6 minutes; writes tirex_forecast.png
    python examples/papers/tirex_forecast.py --weights model.ckpt
    python examples/papers/tirex_forecast.py --help

:Paper: TiRex: Zero-Shot Forecasting Across Long and Short Horizons with Enhanced In-Context Learning (2025), arXiv
    2505.23719
:Shows: the published architecture with and without accelerate, the same up to its own roundings
:Does not show: the accuracy of the published weights, which are not part of this project
:Starts from: a model
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from statsmodels.datasets import co2
from tirex import TiRexZero
from torch import Tensor

from fastiter.torch import accelerate

PATCH = 32  # weeks that TiRex reads and forecasts at once
QUANTILES = [k / 10 for k in range(1, 10)]
BEFORE, AFTER = "tirex", "accelerated"
ROUNDING = 2**-8  # relative rounding error of bfloat16


@dataclass(frozen=True)
class Options:
    weights: Path | None = option(None, "the file model.ckpt of NX-AI/TiRex (default: random weights)")
    context: int = option(512, "weeks before each forecast", 128)
    horizon: int = option(64, "weeks of a forecast", 40)
    series: int = option(16, "forecasts in a batch", 2)
    width: int = option(512, "width of a model with random weights", 64)
    blocks: int = option(12, "its blocks", 2)
    rounds: int = option(3, "times that each forecast is measured", 1)
    seed: int = option(0, "seed of the random weights")
    figure: Path = figure_option(__file__)


# ---- The series and the model ---------------------------------------------------------------------------------------


def load_windows(count: int, context: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Return windows that end a quarter of a year apart, and the weeks after each: (count, weeks), in ppm."""
    levels = torch.tensor(co2.load_pandas().data["co2"].interpolate().to_numpy(), dtype=torch.float32)
    windows = levels.unfold(0, context + horizon, 13)[-count:]
    return windows[:, :context], windows[:, context:]


def build(width: int, blocks: int, seed: int) -> TiRexZero:
    """Return TiRex's architecture with random weights, in the published size by default."""
    config = {
        "input_patch_size": PATCH,
        "output_patch_size": PATCH,
        "quantiles": QUANTILES,
        "block_kwargs": {"embedding_dim": width, "num_heads": 4, "num_blocks": blocks},
        "input_ff_dim": 4 * width,
    }
    model = TiRexZero(backend="torch", model_config=config, train_ctx_len=2048)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter.shape[1 if name.endswith("_recurrent_kernel_") else -1]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in))
            elif "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def load(options: Options) -> TiRexZero:
    if options.weights is None:
        return build(options.width, options.blocks, options.seed).eval()
    return TiRexZero.from_pretrained(str(options.weights), backend="torch", device="cpu").eval()


# ---- Measurements ---------------------------------------------------------------------------------------------------


@dataclass
class Forecasts:
    """Quantiles of a batch (series, horizon, 9) in ppm, and the minimum seconds for it and for its first series."""

    quantiles: Tensor
    batch: float = math.inf
    alone: float = math.inf


def forecast(model: Any, context: Tensor, horizon: int) -> tuple[Tensor, float]:
    started = time.perf_counter()
    quantiles, _ = model.forecast(context=context, batch_size=len(context), prediction_length=horizon)
    return quantiles, time.perf_counter() - started


def measure(models: dict[str, Any], context: Tensor, horizon: int, rounds: int) -> dict[str, Forecasts]:
    """Let the models forecast in turns, so that the load of the machine affects all alike."""
    results = {name: Forecasts(forecast(model, context, horizon)[0]) for name, model in models.items()}
    with progress(rounds * len(models), "rounds") as bar:
        for _ in range(rounds):
            for name, model in models.items():
                results[name].batch = min(results[name].batch, forecast(model, context, horizon)[1])
                results[name].alone = min(results[name].alone, forecast(model, context[:1], horizon)[1])
                bar.update()
    return results


# ---- The results ----------------------------------------------------------------------------------------------------


def draw_forecast(axes: Axes, results: dict[str, Forecasts], context: Tensor, truth: Tensor, is_random: bool) -> None:
    """Plot the last window, the weeks after it, and the quantiles of both models on top of each other."""
    shown = min(3 * truth.shape[1], context.shape[1])
    weeks = torch.arange(truth.shape[1])
    axes.plot(range(-shown, 0), context[-1, -shown:], color=OTHERS, linewidth=1)
    axes.plot(weeks, truth[-1], color=OTHERS, linewidth=1, linestyle=":", label="measured later")
    before, after = results[BEFORE].quantiles[-1], results[AFTER].quantiles[-1]
    axes.fill_between(weeks, before[:, 0], before[:, -1], color="0.88", label=f"{BEFORE}, 10% to 90%")
    axes.plot(weeks, before[:, 4], color=THEIRS, linewidth=1.2, label=f"{BEFORE}, median")
    for k in (0, 4, 8):
        label = f"{AFTER}, 10%, 50%, 90%" if k == 4 else None
        axes.plot(weeks[::3], after[::3, k], ".", color=OURS, markersize=3, label=label)
    axes.set(xlabel="weeks", ylabel="CO2, ppm", title="random weights: no forecast" if is_random else None)
    axes.legend(frameon=False, fontsize=8)


def draw_seconds(axes: Axes, results: dict[str, Forecasts], series: int) -> None:
    for i, (name, color) in enumerate(((BEFORE, THEIRS), (AFTER, OURS))):
        bars = axes.bar([i, 3 + i], [results[name].alone, results[name].batch], color=color, label=name)
        axes.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8)
    axes.set_xticks([0.5, 3.5], ["1 series", f"{series} series"])
    axes.set(ylabel="seconds for a forecast")
    axes.legend(frameon=False)


def report(results: dict[str, Forecasts], series: int) -> None:
    before, after = results[BEFORE], results[AFTER]
    spread = before.quantiles.amax() - before.quantiles.amin()
    apart = (after.quantiles - before.quantiles).abs().max() / spread
    print(f"\nlargest difference of the quantiles: {apart:.1e} of their range")
    assert apart <= ROUNDING, f"the quantiles differ by {apart:.1e} of their range, allowed is {ROUNDING:.1e}"
    print(f"\n{'seconds for a forecast':24}{BEFORE:>12}{AFTER:>14}{'ratio':>8}")
    for task, slow, fast in (("1 series", before.alone, after.alone), (f"{series} series", before.batch, after.batch)):
        print(f"{task:24}{slow:12.3f}{fast:14.3f}{slow / fast:8.2f}")


def main() -> None:
    options = command_line(Options, __doc__)
    context, truth = load_windows(options.series, options.context, options.horizon)
    model = load(options)
    models = {BEFORE: model, AFTER: accelerate(copy.deepcopy(model), verbose=True)}
    results = measure(models, context, options.horizon, options.rounds)
    report(results, options.series)

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    draw_forecast(left, results, context, truth, options.weights is None)
    draw_seconds(right, results, options.series)
    print()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
