"""Reward against λ, for the responses to one instruction."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dogerm.charts.style import (
    COLOURS,
    DASHES,
    FONT,
    INK,
    MARKERS,
    MERGED,
    RULE,
    lam_axis,
    set_style,
)
from dogerm.scoring import letter
from dogerm.sweep import Curve


def reward_curve(
    curve: Curve, lam: float | None = None, centred: bool = False
) -> go.Figure:
    """Reward against λ, a line per response; flips marked, a cursor at lam.

    The cursor is the first shape, so that a page can move it alone.

    Args:
        centred: subtract the mean of the responses at each λ. All rewards drift
            together as λ moves; only their differences mean something.
    """
    rows = [_centred(row) if centred else list(row) for row in curve.rewards]
    figure = go.Figure()
    for index in range(len(rows[0])):
        name = letter(index)
        style = index % len(COLOURS)
        values = [row[index] for row in rows]
        figure.add_scatter(
            x=list(curve.lams),
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[style], "dash": DASHES[style], "width": 2.2},
            marker={"symbol": MARKERS[style], "size": 6},
            customdata=[row[index] for row in curve.rewards],
            hovertemplate=f"<b>{name}</b> %{{customdata:.4f}}<extra></extra>",
        )
    for index, place in _apart(rows):
        figure.add_annotation(
            x=curve.lams[-1],
            y=place,
            text=f"<b>{letter(index)}</b>",
            font={"color": COLOURS[index % len(COLOURS)], "size": 15},
            xanchor="left",
            xshift=9,
            showarrow=False,
        )
    figure.add_shape(
        type="line",
        yref="paper",
        x0=lam or 0,
        x1=lam or 0,
        y0=0,
        y1=1,
        line={"color": MERGED, "width": 2},
        visible=lam is not None,
    )
    for flip in curve.flips:
        figure.add_vline(x=flip.lam, line={"color": INK, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=flip.lam,
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            text=f"{letter(flip.before)}→{letter(flip.after)} at {flip.lam:.2f}",
            font={"size": 12, "color": INK},
        )
    set_style(figure)
    figure.update_layout(
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"family": FONT}},
        xaxis=lam_axis(curve.lams[0], curve.lams[-1]),
        yaxis={
            "title": {"text": "reward − mean" if centred else "reward", "standoff": 8},
            "gridcolor": RULE,
            "zeroline": centred,
            "zerolinecolor": INK,
            "zerolinewidth": 1,
            "nticks": 6,
            "exponentformat": "none",
        },
        uirevision="keep",  # zoom survives new data
    )
    return figure


def _centred(row: Sequence[float]) -> list[float]:
    mean = sum(row) / len(row)
    return [reward - mean for reward in row]


def _apart(rows: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """(response, height) of the letters at the lines' ends, moved apart so that none overlap."""
    values = [value for row in rows for value in row]
    gap = (max(values) - min(values)) * 0.075
    ends = rows[-1]
    placed: list[tuple[int, float]] = []
    for index in sorted(range(len(ends)), key=ends.__getitem__):
        below = placed[-1][1] + gap if placed else ends[index]
        placed.append((index, max(ends[index], below)))
    return placed
