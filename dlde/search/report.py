"""What a search leaves for a person: a table, what each field mattered, and pictures of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from dlde.figures import INK, MUTED, PREDICTION, empty
from dlde.files import unwritable_named, write_json
from dlde.pipeline import Pipeline, Range, Search
from dlde.search import space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlde.search.tune import Found, Outcome

FEWEST = 4  # trials, below which nothing is said about importance


def write(found: Found) -> None:
    """`trials.csv`, `trials.parquet`, `search.json`, `trials.png` and other pictures in its folder."""
    import pandas as pd

    frame = pd.DataFrame([outcome.dump() for outcome in found.outcomes])
    for name in frame.columns:  # Parquet has no column of mixed kinds
        if frame[name].map(type).nunique() > 1 and not frame[name].map(_is_number).all():
            frame[name] = frame[name].map(lambda value: None if value is None else str(value))
    with unwritable_named(found.folder):
        frame.to_csv(found.folder / "trials.csv", index=False)
        frame.to_parquet(found.folder / "trials.parquet", index=False)
        figures = {"trials": parallel(found.search, found.outcomes)}
        if found.importance:
            figures["importance"] = importances(found.importance)
        if found.schedules:
            figures["schedules"] = schedules(found)
        for name, figure in figures.items():
            figure.savefig(found.folder / f"{name}.png", dpi=120, metadata={"Software": None})
    write_json(
        found.folder / "search.json",
        {
            "pipeline": found.pipeline.name,
            "search": found.search.dump(),
            "best": found.best.dump(),
            "importance": found.importance,
            "model": found.model,
            "schedules": found.schedules,
            "trials": [outcome.dump() for outcome in found.outcomes],
        },
    )


def yaml_of(pipeline: Pipeline) -> str:
    """The pipeline as a file that every command takes."""
    text = yaml.safe_dump(pipeline.dump(), sort_keys=False, default_flow_style=None, width=100)
    return f"# the best trial of a search; `dlde train FILE` trains it\n{text}"


def importance(search: Search, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Share of the objective's variance that each field explains, by functional ANOVA on random forests.

    Of all trials that did not fail, those that ended early by their last objective; empty where they
    are too few or all equal. Source: Hutter, Hoos & Leyton-Brown,
    An efficient approach for assessing hyperparameter importance (ICML 2014), as implemented by Optuna.
    """
    known = [outcome for outcome in outcomes if outcome.objective is not None]
    if len(known) < FEWEST or len({outcome.objective for outcome in known}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if search.mode == "min" else "maximize")
    study.add_trials([frozen(search, outcome) for outcome in known])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=search.seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):  # such as fields that were never varied
        return {}
    return {name: float(value) for name, value in found.items()}


def frozen(search: Search, outcome: Outcome) -> Any:
    """A trial that has ended, as Optuna takes it."""
    import optuna

    return optuna.trial.create_trial(
        params=space.to_optuna(search, outcome.point),
        distributions=space.distributions(search),
        value=outcome.objective,
    )


def importances(shares: dict[str, float]) -> Figure:
    """One bar a field, the largest above."""
    figure = empty((6.4, 1.2 + 0.4 * len(shares)))
    axes = figure.subplots()
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=PREDICTION, height=0.6)
    for place, name in enumerate(names):
        axes.annotate(f" {shares[name]:.2f}", (shares[name], place), va="center", color=INK, fontsize=9)
    axes.set(xlabel="share of the objective's variance", xlim=(0, 1.08 * max(*shares.values(), 1e-9)))
    axes.set_title("Importance of the fields", fontsize=11, loc="left")
    _tidy(axes)
    return figure


def parallel(search: Search, outcomes: Sequence[Outcome]) -> Figure:
    """Every trial as a line through its fields to its objective; better ones darker and above."""
    shown = [outcome for outcome in outcomes if outcome.objective is not None]
    fields = list(search.space)
    figure = empty((2.2 + 1.7 * (len(fields) + 1), 4.4))
    axes = figure.subplots()
    values = np.array([outcome.objective for outcome in shown], float)
    logarithmic = bool(len(values)) and values.min() > 0 and values.max() / values.min() > 30
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    ranks = np.argsort(np.argsort(values if search.mode == "min" else -values))
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    for outcome, rank in sorted(zip(shown, ranks, strict=True), key=lambda pair: -pair[1]):
        heights = [_height(search.space[name], outcome.point[name]) for name in fields]
        assert outcome.objective is not None
        heights.append(_between(outcome.objective, low, high, logarithmic=logarithmic))
        worse = rank / max(len(shown) - 1, 1)
        axes.plot(
            range(len(heights)), heights, color=colours(0.9 * worse), linewidth=2.4 if rank == 0 else 1.1,
            alpha=1.0 if rank == 0 else 0.65, linestyle="-" if outcome.state == "finished" else ":",
        )  # fmt: skip
    ticks = [_ticks(search.space[name]) for name in fields]
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    ticks.append([(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")])
    for place, marks in enumerate(ticks):
        axes.axvline(place, color=MUTED, linewidth=0.8, zorder=0)
        for height, text in marks:
            axes.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8, color=INK,
                va="center", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(fields) + 1), [*fields, search.metric], rotation=20, ha="right")
    axes.set_yticks([])
    axes.set(xlim=(-0.15, len(fields) + 0.45), ylim=(-0.06, 1.06))
    stopped = any(outcome.state == "stopped" for outcome in shown)
    note = "; dotted: ended early" if stopped else ""
    axes.set_title(f"{len(shown)} trials, the best in bold{note}", fontsize=11, loc="left")
    _tidy(axes)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def schedules(found: Found) -> Figure:
    """Every field over the steps, a line for each member of the population, the best in bold."""
    fields = list(found.search.space)
    figure = empty((7.0, 0.9 + 2.0 * len(fields)))
    places = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    steps = {outcome.number: outcome.step for outcome in found.outcomes}
    for axes, path in zip(places, fields, strict=True):
        where = found.search.space[path]
        for number, rows in found.schedules.items():
            best = number == found.best.number
            values = [row["point"][path] for row in rows]
            heights = [_height(where, value) for value in values] if where.choice else values
            axes.step(
                [*(row["step"] for row in rows), steps[number]], [*heights, heights[-1]], where="post",
                color=PREDICTION if best else MUTED, linewidth=2.4 if best else 1.0, zorder=2 + best,
            )  # fmt: skip
        if where.choice:
            axes.set_yticks(*zip(*_ticks(where), strict=True))
            axes.set_ylim(0, 1)
        elif where.log_uniform or where.log_integer:
            axes.set_yscale("log")
        axes.set_ylabel(path)
        _tidy(axes)
    places[0].set_title("What the members' states went through, the best in bold", fontsize=11, loc="left")
    places[-1].set_xlabel("step")
    return figure


def _height(where: Range, value: Any) -> float:
    if where.choice:
        labels = [space.label(choice) for choice in where.choice]
        return (labels.index(space.label(value)) + 0.5) / len(labels)
    low, high = where.ends
    return _between(value, low, high, logarithmic=bool(where.log_uniform or where.log_integer))


def _between(value: float, low: float, high: float, *, logarithmic: bool) -> float:
    if high == low:
        return 0.5
    if logarithmic:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _ticks(where: Range) -> list[tuple[float, str]]:
    if where.choice:
        return [(_height(where, value), str(space.label(value))) for value in where.choice]
    low, high = where.ends
    return [(0.0, f"{low:g}"), (1.0, f"{high:g}")]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
