"""What benchmarks measured: accuracy against λ, and best-of-N against N."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from dogerm.benchmarks.report import Measured, Metric
from dogerm.charts.style import (
    BASE,
    COLOURS,
    DASHES,
    FONT,
    INK,
    MARKERS,
    MERGED,
    RULE,
    lam_axis,
    percent_axis,
    set_style,
    words,
)


def accuracy_curve(points: Sequence[Measured], groups: Sequence[str]) -> go.Figure:
    """Accuracy against λ in percent, a line per group with its 95% intervals.

    Args:
        points: of one mix of domains, λ ascending.
        groups: at most as many as can be told apart, eight.
    """
    figure = go.Figure()
    for style, group in enumerate(groups[: len(COLOURS)]):
        found = [(point.recipe.lam, point.metrics[group]) for point in points]
        measured = [
            (lam, metric) for lam, metric in found if metric.accuracy is not None
        ]
        figure.add_scatter(
            x=[lam for lam, _ in measured],
            y=[100 * metric.accuracy for _, metric in measured],
            error_y=_arms([metric for _, metric in measured]),
            name=escape(group),
            mode="lines+markers",
            line={"color": COLOURS[style], "dash": DASHES[style], "width": 2.2},
            marker={"symbol": MARKERS[style], "size": 6},
            customdata=[words(metric) for _, metric in measured],
            hovertemplate="λ = %{x:g}: %{customdata}",
        )
    lams = [point.recipe.lam for point in points]
    set_style(figure)
    figure.update_layout(
        legend={"orientation": "h", "y": 1.12},
        hoverlabel={"font": {"family": FONT}},
        xaxis=lam_axis(lams[0], lams[-1]),
        yaxis=percent_axis("accuracy, %"),
    )
    return figure


def best_of_curve(base: Measured, merged: Measured | None = None) -> go.Figure:
    """Problems solved against N, the number of candidates, in percent.

    By picking with the base RM and with the merged one, with their 95% intervals; and, of
    the same candidates, by what needs no reward model: a vote, one at random, and an
    oracle that solves what any of them solves.
    """
    figure = go.Figure()
    picks = [("base RM", base, "best-of-", BASE, "circle", "solid")]
    if merged:
        name = f"DogeRM, λ = {merged.recipe.lam:g}"
        picks.append((name, merged, "best-of-", MERGED, "square", "solid"))
    alone = [
        ("vote of N", base, "majority@", INK, "triangle-up", "dash"),
        ("oracle: any of N", base, "pass@", INK, "diamond", "dot"),
    ]
    for name, point, prefix, colour, marker, dash in picks + alone:
        found = _by_n(point, prefix)
        if not found:
            continue
        ns, metrics = zip(*found)
        figure.add_scatter(
            x=ns,
            y=[100 * metric.accuracy for metric in metrics],
            error_y=_arms(metrics) if prefix == "best-of-" else None,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.2},
            marker={"symbol": marker, "size": 7},
            customdata=[words(metric) for metric in metrics],
            hovertemplate="N = %{x}: %{customdata}",
        )
    ns = [n for n, _ in _by_n(base, "best-of-")]
    random = base.metrics.get("random")
    if random and random.accuracy is not None:
        figure.add_scatter(
            x=[ns[0], ns[-1]],
            y=[100 * random.accuracy] * 2,
            name="one at random",
            mode="lines",
            line={"color": INK, "dash": "longdash", "width": 1.2},
            hovertemplate=words(random),
        )
    set_style(figure)
    figure.update_layout(
        legend={"orientation": "h", "y": 1.12},
        hoverlabel={"font": {"family": FONT}},
        xaxis={
            "title": {"text": "N, candidates of each problem", "standoff": 6},
            "type": "log",
            "tickvals": ns,
            "ticktext": [str(n) for n in ns],
            "showgrid": False,
            "zeroline": False,
            "ticks": "outside",
            "tickcolor": RULE,
        },
        yaxis=percent_axis("problems solved, %"),
    )
    return figure


def _by_n(point: Measured, prefix: str) -> list[tuple[int, Metric]]:
    """The metrics named prefix and N that were measured, by N."""
    found = [
        (int(name.removeprefix(prefix)), metric)
        for name, metric in point.metrics.items()
        if re.fullmatch(rf"{prefix}\d+", name) and metric.accuracy is not None
    ]
    return sorted(found, key=lambda pair: pair[0])


def _arms(metrics: Sequence[Metric]) -> dict:
    """Error bars of the metrics' intervals, in percent."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (metric.high - metric.accuracy) for metric in metrics],
        "arrayminus": [100 * (metric.accuracy - metric.low) for metric in metrics],
        "thickness": 1,
        "width": 0,
    }
