"""How every figure looks: colours, type, axes."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from dogerm.benchmarks.report import Metric

BASE, MERGED = "#4f6d9a", "#c9820c"  # base RM slate blue, DogeRM amber, everywhere
INK, RULE = "#7d7a74", "rgba(125,122,116,0.28)"
PALE = "rgba(201,130,12,0.25)"  # amber that says less
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


def set_style(figure: go.Figure) -> None:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 56, "r": 34, "t": 26, "b": 44},
    )


def lam_axis(low: float, high: float) -> dict:
    span = high - low or 1
    return {
        "title": {"text": "λ", "standoff": 6},
        "range": [low - 0.01 * span, high + 0.01 * span],
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": RULE,
        "hoverformat": ".2f",
    }


def percent_axis(title: str) -> dict:
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": RULE,
        "zeroline": False,
    }


def words(metric: Metric) -> str:
    return escape(str(metric))
