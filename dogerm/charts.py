"""Curves and reports as Plotly figures. They know nothing of models or pages.

Colours are hex or rgba only: the page's plotly.js knows no newer notation. Grounds
are transparent and text is mid-grey, so a figure reads on light and dark alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dogerm.benchmarks.report import Measured, Metric
from dogerm.scan import Profile
from dogerm.scoring import letter
from dogerm.sweep import Curve, DomainMap

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
    _style(figure)
    figure.update_layout(
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"family": FONT}},
        xaxis=_lam_axis(curve.lams[0], curve.lams[-1]),
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


def domain_map(found: DomainMap, first: int, second: int) -> go.Figure:
    """The margin of one response over another, by colour, with the line where it is 0.

    Two domains: λ across, the second domain's share of the mix upwards. Three: the
    triangle of their shares, each point with the letter of the better response.

    Args:
        first, second: responses. The first one's colour is where it wins.
    """
    margins = [row[first] - row[second] for row in found.rewards]
    winner, loser = letter(first), letter(second)
    scale = {
        "colorscale": [
            [0, COLOURS[second % len(COLOURS)]],
            [0.5, "rgba(125,122,116,0.10)"],
            [1, COLOURS[first % len(COLOURS)]],
        ],
        "colorbar": {
            "title": {"text": f"{winner} − {loser}", "side": "top"},
            "thickness": 12,
            "outlinewidth": 0,
            "len": 0.9,
            "x": 1.02,
        },
    }
    figure = go.Figure()
    _style(figure)
    figure.update_layout(
        margin={"l": 64, "r": 20},
        showlegend=False,
        hoverlabel={"font": {"family": FONT}},
        uirevision="keep",
    )
    if len(found.domains) == 2:
        _square(figure, found, margins, scale)
    else:
        _triangle(figure, found, margins, scale, (winner, loser))
    return figure


def _square(
    figure: go.Figure, found: DomainMap, margins: Sequence[float], scale: Mapping
) -> None:
    """λ against the mix of two domains. The third trace is a mark for a page to place."""
    names = [escape(name) for name in found.domains]
    reach = max(map(abs, margins)) or 1.0
    lams = sorted({lam for lam, _ in found.points})
    mixes = sorted({mix for _, (_, mix) in found.points})
    at = {(lam, mix): m for (lam, (_, mix)), m in zip(found.points, margins)}
    grid = {
        "x": lams,
        "y": mixes,
        "z": [[at[lam, mix] for lam in lams] for mix in mixes],
    }
    figure.add_heatmap(
        **grid,
        **scale,
        zmin=-reach,
        zmax=reach,
        zsmooth="best",
        hovertemplate=(
            f"λ %{{x:.2f}}, {names[1]} %{{y:.0%}} of the mix"
            "<br>margin %{z:.4f}<extra></extra>"
        ),
    )
    figure.add_contour(
        **grid,
        contours={"start": 0, "end": 0, "size": 1, "coloring": "none"},
        line={"color": INK, "width": 2.5},
        showscale=False,
        hoverinfo="skip",
    )
    mark = {"symbol": "cross-thin", "size": 15, "line": {"color": MERGED, "width": 3}}
    figure.add_scatter(x=[], y=[], mode="markers", marker=mark, hoverinfo="skip")
    figure.update_xaxes(
        title={"text": "λ", "standoff": 6}, range=[0, 1], showgrid=False
    )
    figure.update_yaxes(
        title={"text": f"{names[1]} in the mix, else {names[0]}", "standoff": 8},
        range=[0, 1],
        tickformat=".0%",
        showgrid=False,
    )


def _triangle(
    figure: go.Figure,
    found: DomainMap,
    margins: Sequence[float],
    scale: Mapping,
    letters: tuple[str, str],
) -> None:
    """The shares of three domains at one λ."""
    names = [escape(name) for name in found.domains]
    reach = max(map(abs, margins)) or 1.0
    winner, loser = letters
    corners = zip(*(shares for _, shares in found.points))
    figure.add_scatterternary(
        **dict(zip("abc", map(list, corners))),
        mode="markers+text",
        text=[winner if m > 0 else loser if m < 0 else "=" for m in margins],
        textfont={"size": 10},
        customdata=margins,
        marker={
            "symbol": "hexagon",
            "size": 24,
            "color": margins,
            "cmin": -reach,
            "cmax": reach,
            "line": {"width": 0},
            **scale,
        },
        hovertemplate=(
            f"{names[0]} %{{a:.0%}}, {names[1]} %{{b:.0%}}, {names[2]} %{{c:.0%}}"
            "<br>margin %{customdata:.4f}<extra></extra>"
        ),
    )
    plain = {"showgrid": False, "ticks": "", "showticklabels": False, "linecolor": RULE}
    axes = {
        f"{axis}axis": {"title": {"text": name}, **plain}
        for axis, name in zip("abc", names)
    }
    figure.update_layout(ternary={"sum": 1, "bgcolor": "rgba(0,0,0,0)", **axes})


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
            customdata=[_words(metric) for _, metric in measured],
            hovertemplate="λ = %{x:g}: %{customdata}",
        )
    lams = [point.recipe.lam for point in points]
    _style(figure)
    figure.update_layout(
        legend={"orientation": "h", "y": 1.12},
        hoverlabel={"font": {"family": FONT}},
        xaxis=_lam_axis(lams[0], lams[-1]),
        yaxis={
            "title": {"text": "accuracy, %", "standoff": 8},
            "gridcolor": RULE,
            "zeroline": False,
        },
    )
    return figure


def mix_map(points: Sequence[Measured], group: str) -> go.Figure:
    """One group's accuracy over λ and the mix of domains, in percent; a gap where there is none.

    λ = 0 is the reward model whatever the mix, so its value stands in every row.
    """
    mixes = list(dict.fromkeys(str(p.recipe.with_lam(1)) for p in points))
    lams = sorted({point.recipe.lam for point in points})
    found = {
        (str(p.recipe.with_lam(1)), p.recipe.lam): p.metrics[group] for p in points
    }
    plain = next((p.metrics[group] for p in points if p.recipe.lam == 0), None)
    cells = [
        [found.get((mix, lam), plain if lam == 0 else None) for lam in lams]
        for mix in mixes
    ]
    figure = go.Figure(
        go.Heatmap(
            x=lams,
            y=[escape(mix.split(" ", 2)[-1]) for mix in mixes],
            z=[
                [
                    100 * c.accuracy if c and c.accuracy is not None else None
                    for c in row
                ]
                for row in cells
            ],
            customdata=[[_words(c) if c else "" for c in row] for row in cells],
            hovertemplate="λ = %{x:g}, %{y}: %{customdata}<extra></extra>",
            colorscale=[[0, BASE], [0.5, "#f3efe6"], [1, MERGED]],
            colorbar={"title": {"text": "%"}, "outlinewidth": 0},
        )
    )
    _style(figure)
    figure.update_layout(
        title={"text": escape(group), "font": {"size": 14}},
        margin={"l": 150, "t": 44},
        xaxis={"title": {"text": "λ"}, "showgrid": False},
    )
    return figure


def layer_profile(profile: Profile, over: str, under: str) -> go.Figure:
    """Margin of `over` above `under` with one spot of the model merged: a bar a spot.

    Bars stand on the base's margin, so that a bar is what its spot alone changes. A bar
    whose order is not the base's is solid and says so; others are pale. Over the bar of
    several rows stands how many of them flip.
    """
    flipped = [flips > 0 for flips in profile.flips]
    figure = go.Figure(
        go.Bar(
            x=list(range(len(profile.names))),
            y=[margin - profile.base for margin in profile.margins],
            base=profile.base,
            marker={
                "color": [MERGED if flip else PALE for flip in flipped],
                "line": {"color": MERGED, "width": 1.2},
            },
            text=[_flip_label(flips, profile.rows) for flips in profile.flips],
            textposition="outside",
            textfont={"size": 11},
            constraintext="none",
            textangle=0,
            cliponaxis=False,
            customdata=list(zip(profile.names, profile.margins, profile.flips)),
            hovertemplate="<b>%{customdata[0]}</b> %{customdata[1]:.4f}"
            "<br>%{customdata[2]} flipped<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    high = max(profile.base, profile.merged)
    for value, name, colour, dash in (
        (profile.base, "base", BASE, "solid"),
        (profile.merged, "all merged", MERGED, "dash"),
    ):
        figure.add_hline(y=value, line={"color": colour, "width": 2, "dash": dash})
        figure.add_annotation(
            x=1,
            xref="paper",
            y=value,
            text=f"{name} {value:+.2f}".replace("-", "−"),
            font={"color": colour, "size": 12},
            xanchor="left",
            yanchor="bottom" if value == high else "top",
            xshift=6,
            showarrow=False,
        )
    what = "margin" if profile.rows == 1 else f"mean margin of {profile.rows}"
    ticks = [_short(name) for name in profile.names]
    upright = sum(map(len, ticks)) > 90  # characters: more would run into each other
    _style(figure)
    figure.update_layout(
        margin={"l": 56, "r": 112, "t": 26, "b": 92 if upright else 56},
        showlegend=False,
        bargap=0.25,
        hoverlabel={"font": {"family": FONT}},
        xaxis={
            "title": {"text": "layers merged alone", "standoff": 12},
            "tickvals": list(range(len(profile.names))),
            "ticktext": ticks,
            "showgrid": False,
            "zeroline": False,
            "tickangle": -90 if upright else 0,
        },
        yaxis={
            "title": {"text": f"{what}: {over} − {under}", "standoff": 8},
            "gridcolor": RULE,
            "zeroline": False,
            "nticks": 6,
            "exponentformat": "none",
        },
        uirevision="keep",
    )
    return figure


def _flip_label(flips: int, rows: int) -> str:
    """What stands over a bar: of several rows, how many flip."""
    if not flips:
        return ""
    return "flip" if rows == 1 else str(flips)


def _short(name: str) -> str:
    """A spot's name as it fits under a bar: `layers 3–5` is 3–5."""
    return (
        name.removeprefix("layers ")
        .removeprefix("layer ")
        .replace("embeddings", "emb.")
    )


def _style(figure: go.Figure) -> None:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 56, "r": 34, "t": 26, "b": 44},
    )


def _lam_axis(low: float, high: float) -> dict:
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


def _words(metric: Metric) -> str:
    return escape(str(metric))


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


_PLACES = {"device": "from memory", "pinned": "from pinned memory", "mapped": "mapped"}
_PEERS = {
    "reference": "load, merge, save, load",
    "mergekit": "mergekit in memory",
}


def speed_bars(found: Mapping[str, Any]) -> go.Figure:
    """What `dogerm.speed` measured, from its JSON: bars of seconds, dogerm's in amber.

    Merging beside a copy of as many bytes; one λ beside other programs, if any was
    measured; answers to one prompt. What was not measured has no bar.
    """
    panels = [panel for panel in _panels(found) if panel[1]]
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[f"<b>{title}</b>" for title, _ in panels],
        horizontal_spacing=0.55 / len(panels),
    )
    for column, (_, bars) in enumerate(panels, 1):
        names, seconds, ours = zip(*bars)
        places = list(range(len(bars)))  # two bars may have one name
        figure.add_bar(
            y=places,
            x=seconds,
            text=[_seconds(value) for value in seconds],
            textposition="outside",
            cliponaxis=False,
            orientation="h",
            width=0.62,
            marker={"color": [MERGED if own else BASE for own in ours]},
            customdata=names,
            hovertemplate="%{customdata}: %{text}<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_xaxes(range=[0, 1.25 * max(seconds)], row=1, col=column)
        figure.update_yaxes(
            tickvals=places,
            ticktext=[f"{name} " for name in names],
            row=1,
            col=column,
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    for axis, title in zip(figure.select_xaxes(), figure.layout.annotations):
        title.update(x=axis.domain[0], xanchor="left", font={"size": 13})
    _style(figure)
    figure.update_layout(
        showlegend=False,
        font={"size": 12},
        margin={"l": 170, "r": 10, "t": 40, "b": 10},
    )
    return figure


def _panels(
    found: Mapping[str, Any],
) -> list[tuple[str, list[tuple[str, float, bool]]]]:
    """(title, bars) of each panel; a bar is (name, seconds, whether it is dogerm's)."""
    rows = [r for r in found["merging"] if r["lms"] == 1 and r["seconds"] is not None]
    merging = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        own = [row for row in rows if row["dtype"] == dtype]
        merging += [
            (f"{dtype}, {_PLACES[r['sources']]}", r["seconds"], True) for r in own
        ]
        for nbytes in dict.fromkeys(row["nbytes"] for row in own):
            copies = [r["copy_seconds"] for r in own if r["nbytes"] == nbytes]
            name = f"copy of {nbytes / 1e9:.2f} GB"
            merging.append((name, statistics.median(copies), False))
    peers = []
    for peer in found.get("against", ()):
        seconds = sum(s for step, s in peer["steps"].items() if step != "score")
        peers.append(("dogerm", peer["ours"]["merge"], True))
        peers.append((_PEERS[peer["name"]], seconds, False))
    answers = found["answers"]
    ways = [
        ("dogerm", answers["shared"], True),
        ("one padded batch", answers["batch"], False),
        ("one by one", answers["one_by_one"], False),
    ]
    size = f"{found['parameters'] / 1e6:.0f}M parameters"
    return [
        (f"Re-merge, {size}, one LM", merging),
        ("One λ, up to merged weights", peers),
        (f"{answers['responses']} answers to one prompt", ways),
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
