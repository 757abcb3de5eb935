"""What benchmarks measured: accuracy against λ."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from dogerm.benchmarks.report import Measured
from dogerm.charts.style import (
    COLOURS,
    DASHES,
    FONT,
    MARKERS,
    RULE,
    lam_axis,
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
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [100 * (m.high - m.accuracy) for _, m in measured],
                "arrayminus": [100 * (m.accuracy - m.low) for _, m in measured],
                "thickness": 1,
                "width": 0,
            },
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
        yaxis={
            "title": {"text": "accuracy, %", "standoff": 8},
            "gridcolor": RULE,
            "zeroline": False,
        },
    )
    return figure
