"""What each model gains over its base reward model, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from dogerm.charts.style import (
    BASE,
    COLOURS,
    FONT,
    MARKERS,
    percent_axis,
    set_style,
)


def gains(
    models: Mapping[str, Mapping[str, tuple[float, float]]], columns: Sequence[str]
) -> go.Figure:
    """Percentage points gained over the base RM in each column: a mark per model.

    Args:
        models: by name, and by column, the gain with the half-width of its error bar (0
            for none). A column that a model lacks has no mark.
    """
    figure = go.Figure()
    middle = (len(models) - 1) / 2
    for place, (model, found) in enumerate(models.items()):
        at = place % len(COLOURS)
        own = [column for column in columns if column in found]
        figure.add_scatter(
            # Beside each other, so that none hides another.
            x=[columns.index(c) + 0.62 * (place - middle) / len(models) for c in own],
            y=[found[column][0] for column in own],
            error_y={
                "type": "data",
                "array": [found[column][1] for column in own],
                "thickness": 1.2,
                "width": 0,
                "visible": any(found[column][1] for column in own),
            },
            name=escape(model),
            mode="markers",
            marker={"symbol": MARKERS[at], "size": 9, "color": COLOURS[at]},
            customdata=[escape(column.replace("\n", " ")) for column in own],
            hovertemplate="%{customdata}: %{y:+.1f}",
        )
    figure.add_hline(y=0, line={"color": BASE, "width": 2})
    set_style(figure)
    figure.update_layout(
        # Anchored below, a legend of several rows makes room for itself.
        legend={"orientation": "h", "y": 1.03, "yanchor": "bottom"},
        hoverlabel={"font": {"family": FONT}},
        xaxis={
            "tickvals": list(range(len(columns))),
            "ticktext": [escape(column).replace("\n", "<br>") for column in columns],
            "range": [-0.5, len(columns) - 0.5],
            "showgrid": False,
            "zeroline": False,
            "tickangle": 0,
        },
        yaxis=percent_axis("points above the base RM") | {"tickformat": "+"},
    )
    return figure
