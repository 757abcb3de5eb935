"""Curves and reports as Plotly figures. They know nothing of models or pages.

Colours are hex or rgba only: the page's plotly.js knows no newer notation. Grounds
are transparent and text is mid-grey, so a figure reads on light and dark alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dogerm.scoring import letter
from dogerm.sweep import Curve

BASE, MERGED = "#4f6d9a", "#c9820c"  # base RM slate blue, DogeRM amber, everywhere
INK, RULE = "#7d7a74", "rgba(125,122,116,0.28)"
# Responses are told apart by letter, marker and dash first, by colour second
# (Okabe-Ito without its yellow, which vanishes on white).
COLOURS = (
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
    "#0072b2",
    "#e69f00",
    "#8c564b",
    "#7f7f7f",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
MARKERS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "star",
    "pentagon",
)
FONT = "IBM Plex Sans, system-ui, sans-serif"


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
    span = curve.lams[-1] - curve.lams[0] or 1
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 56, "r": 34, "t": 26, "b": 44},
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"family": FONT}},
        xaxis={
            "title": {"text": "λ", "standoff": 6},
            "range": [curve.lams[0] - 0.01 * span, curve.lams[-1] + 0.01 * span],
            "showgrid": False,
            "zeroline": False,
            "ticks": "outside",
            "tickcolor": RULE,
            "hoverformat": ".2f",
        },
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
