"""Forecast the carbon dioxide above Mauna Loa half a year ahead, with an sLSTM of four heads and with torch.nn's LSTM.

The series comes with statsmodels: weekly means from 1958 to 2001, in parts per million. Each model sees the change of
every week and predicts, week by week, how much the level will have changed 1 to 26 weeks later. Both have the same
width, the same batches and the same number of steps, and are tested on the last ten years. Then the trained sLSTM runs
as it would next to an instrument: one week at a time, with the same numbers as the whole run, bit for bit.

    python examples/papers/slstm_forecast.py  # 20 seconds to 6 minutes; writes slstm_forecast.png
    python examples/papers/slstm_forecast.py --help

:Paper: xLSTM: Extended Long Short-Term Memory (2024), arXiv 2405.04517
:Shows: the sLSTM of four heads as a forecaster, the same bit for bit when it runs week by week
:Does not show: language models, and the mLSTM
:Starts from: a training run
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from _paper import OURS, command_line, figure_option, option, progress, save
from matplotlib.dates import YearLocator
from matplotlib.figure import Figure
from statsmodels.datasets import co2
from torch import Tensor, nn

import fastiter.torch.nn

HORIZON, YEAR = 26, 52  # weeks
TEST = 10 * YEAR  # the last weeks, excluded from training
SCALE = 0.5  # ppm: about the change from one week to the next


@dataclass(frozen=True)
class Options:
    steps: int = option(600, "optimizer steps of each model", 60)
    hidden: int = option(64, "width of the recurrence", 16)
    heads: int = option(4, "heads of the sLSTM")
    batch: int = option(32, "stretches in a batch", 8)
    length: int = option(3 * YEAR, "weeks in a stretch", YEAR)
    seed: int = option(0, "seed of the weights and the batches")
    figure: Path = figure_option(__file__)


# ---- The series -----------------------------------------------------------------------------------------------------


def load_series() -> tuple[list[date], Tensor]:
    """Weeks, and levels in ppm; the weeks without a measurement, 59 of 2284, are interpolated linearly."""
    levels = co2.load_pandas().data["co2"].interpolate()
    return [week.date() for week in levels.index], torch.tensor(levels.to_numpy(), dtype=torch.float32)


def changes(levels: Tensor) -> Tensor:
    """The models' input: the change since the week before, (weeks, 1)."""
    return (levels.diff(prepend=levels[:1]) / SCALE).unsqueeze(-1)


def coming(levels: Tensor) -> Tensor:
    """The targets: the change until 1 to HORIZON weeks later, (weeks - HORIZON, HORIZON), in ppm."""
    return levels.unfold(0, HORIZON + 1, 1)[:, 1:] - levels[: len(levels) - HORIZON].unsqueeze(-1)


def batches(levels: Tensor, steps: int, batch: int, length: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Random excerpts: inputs (length, batch, 1) and targets (length, batch, HORIZON)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = changes(levels), coming(levels)
    starts = torch.randint(len(y) - length, (steps, batch), generator=generator)
    stretches = [torch.arange(length).unsqueeze(1) + start for start in starts]
    return [(x[weeks], y[weeks]) for weeks in stretches]


# ---- The model ------------------------------------------------------------------------------------------------------


class Forecaster(nn.Module):
    """A recurrence over the weeks, and a linear layer from its state to each week of the horizon."""

    def __init__(self, recurrence: nn.RNNBase) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.output = nn.Linear(recurrence.hidden_size, HORIZON)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.recurrence(x)[0])


def train(model: Forecaster, stretches: list[tuple[Tensor, Tensor]], warm_up: int, bar: Any) -> float:
    """Minimise the squared error after the recurrence has seen `warm_up` weeks; return the seconds taken."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=len(stretches), pct_start=0.1)
    started = time.perf_counter()
    for x, y in stretches:
        loss = (model(x)[warm_up:] - y[warm_up:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.update()
    return time.perf_counter() - started


# ---- Forecasts ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def forecasts(model: Forecaster, levels: Tensor) -> Tensor:
    """Forecasts for every week of the test years with a known truth, (weeks, HORIZON), in ppm."""
    model.eval()
    return model(changes(levels).unsqueeze(1))[-TEST - HORIZON : -HORIZON, 0]


def as_last_year(levels: Tensor) -> Tensor:
    """Predict the change of the same weeks a year before."""
    weeks = torch.arange(len(levels) - TEST - HORIZON, len(levels) - HORIZON)
    return coming(levels)[weeks - YEAR]


@torch.no_grad()
def stream(model: Forecaster, levels: Tensor) -> tuple[Tensor, float]:
    """The same forecasts, one week at a time, and microseconds per week."""
    recurrence = fastiter.torch.nn.StreamingRNN(model.recurrence)
    x = changes(levels)
    started = time.perf_counter()
    states = [recurrence(week) for week in x]
    microseconds = 1e6 * (time.perf_counter() - started) / len(x)
    return model.output(torch.stack(states).unsqueeze(1))[-TEST - HORIZON : -HORIZON, 0], microseconds


def draw(weeks: list[date], levels: Tensor, predictions: dict[str, Tensor], truth: Tensor, path: Path) -> None:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    first = len(levels) - 4 * YEAR
    left.plot(weeks[first:], levels[first:], color="black", linewidth=0.9, label="measured")
    colors = dict(zip(predictions, (OURS, "tab:blue", "0.5", "0.75"), strict=True))
    for name, values in list(predictions.items())[:2]:
        for week in range(first, len(levels) - HORIZON, HORIZON):
            forecast = levels[week] + values[week - (len(levels) - TEST - HORIZON)]
            label = name if week == first else None
            left.plot(weeks[week + 1 : week + 1 + HORIZON], forecast, color=colors[name], linewidth=1.5, label=label)
    left.set(ylabel="CO2 above Mauna Loa, ppm", title="Forecasts of half a year, one after the other")
    left.xaxis.set_major_locator(YearLocator())
    for name, values in predictions.items():
        right.plot(range(1, HORIZON + 1), (values - truth).abs().mean(0), color=colors[name], label=name)
    right.set(xlabel="weeks ahead", ylabel="mean absolute error, ppm", ylim=(0, None), title="Error by distance")
    for axes in (left, right):
        axes.legend(frameon=False, loc="upper left")
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    weeks, levels = load_series()
    known = levels[:-TEST]
    print(f"{len(known)} weeks to train on, {TEST} to test on; width {options.hidden}, {options.steps} steps")
    makers: dict[str, Callable[[], nn.RNNBase]] = {
        f"sLSTM, {options.heads} heads": lambda: fastiter.torch.nn.sLSTM(1, options.hidden, num_heads=options.heads),
        "torch.nn.LSTM": lambda: nn.LSTM(1, options.hidden),
    }
    models, seconds = {}, {}
    stretches = batches(known, options.steps, options.batch, options.length, options.seed)
    with progress(len(makers) * options.steps, "steps") as bar:
        for name, make in makers.items():
            bar.set_postfix_str(name)
            torch.manual_seed(options.seed)
            models[name] = Forecaster(make())
            seconds[name] = train(models[name], stretches, options.length // 4, bar)

    truth = coming(levels)[-TEST:]
    predictions = {name: forecasts(model, levels) for name, model in models.items()}
    predictions |= {"as last year": as_last_year(levels), "no change": torch.zeros_like(truth)}
    columns = f"{'1 week':>8}{'13 weeks':>10}{'26 weeks':>10}{'parameters':>12}{'seconds':>9}"
    print(f"\n{'mean absolute error, ppm':26}{columns}")
    for name, values in predictions.items():
        errors = (values - truth).abs().mean(0)
        row = f"{name:26}{errors[0]:8.3f}{errors[12]:10.3f}{errors[25]:10.3f}"
        if name in models:
            row += f"{sum(p.numel() for p in models[name].parameters()):12,}{seconds[name]:9.1f}"
        print(row)

    name = next(iter(models))
    streamed, microseconds = stream(models[name], levels)
    print(f"\n{name}, one week at a time: {microseconds:.0f} microseconds each, ", end="")
    print(f"{int((streamed != predictions[name]).sum())} of {streamed.numel():,} numbers differ from the whole run's")
    draw(weeks, levels, predictions, truth, options.figure)


if __name__ == "__main__":
    main()
