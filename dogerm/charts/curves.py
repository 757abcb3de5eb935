"""Reward against λ, for the responses to one instruction."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

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
    set_style,
)
from dogerm.curves import Curve, preference, top
from dogerm.texts import letter


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
    _mark(figure, curve, lam)
    _lay_out(figure, curve, "reward − mean" if centred else "reward", centred)
    return figure


def margin_curve(curve: Curve, lam: float | None = None) -> go.Figure:
    """By how much one response leads against λ: it leads above zero, and is led below.

    That one is the first of two responses, of more the one that comes out on top at the
    curve's first λ, the plain reward model; its margin is over the best of the others.
    Each point bears the marker of the response that leads there. The cursor is the
    first shape; the level of the first λ is drawn through.
    """
    ours = 0 if len(curve.rewards[0]) == 2 else top(curve.rewards[0])[0]
    rivals = [_best_other(row, ours) for row in curve.rewards]
    margins = [row[ours] - row[rival] for row, rival in zip(curve.rewards, rivals)]
    leads = [ours if m > 0 else rival for m, rival in zip(margins, rivals)]
    figure = go.Figure()
    figure.add_scatter(
        x=list(curve.lams),
        y=margins,
        name="margin",
        mode="lines+markers",
        line={"color": INK, "width": 2.2},
        marker={
            "symbol": [MARKERS[index % len(MARKERS)] for index in leads],
            "color": [COLOURS[index % len(COLOURS)] for index in leads],
            "size": 7,
        },
        fill="tozeroy",
        fillcolor="rgba(125,122,116,0.08)",
        customdata=[
            f"<b>{letter(ours)} − {letter(rival)}</b> {margin:.4f}<br>"
            f"{letter(ours)} over {letter(rival)}: {preference(margin):.1%}"
            for rival, margin in zip(rivals, margins)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    _mark(figure, curve, lam)
    figure.add_hline(margins[0], line={"color": BASE, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        x=1,
        xref="paper",
        y=margins[0],
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        text="base RM",
        font={"size": 12, "color": BASE},
    )
    two = len(curve.rewards[0]) == 2
    over = letter(rivals[0]) if two else "the best other"
    _lay_out(figure, curve, f"margin of {letter(ours)} over {over}", True)
    return figure


def _mark(figure: go.Figure, curve: Curve, lam: float | None) -> None:
    """The cursor, as the first shape, and the flips."""
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


def _lay_out(figure: go.Figure, curve: Curve, title: str, zeroline: bool) -> None:
    set_style(figure)
    figure.update_layout(
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"family": FONT}},
        # Zoom survives new data; up and down it holds for one kind of number only.
        uirevision="keep",
        xaxis=lam_axis(curve.lams[0], curve.lams[-1]),
        yaxis={
            "title": {"text": title, "standoff": 8},
            "uirevision": title,
            "gridcolor": RULE,
            "zeroline": zeroline,
            "zerolinecolor": INK,
            "zerolinewidth": 1,
            "nticks": 6,
            "exponentformat": "none",
        },
    )


def _best_other(row: Sequence[float], ours: int) -> int:
    others = [index for index in range(len(row)) if index != ours]
    return max(others, key=row.__getitem__)


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
