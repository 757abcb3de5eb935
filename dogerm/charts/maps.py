"""What holds at every λ and mix of domains, as a heat map or a triangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from dogerm.benchmarks.report import Measured
from dogerm.charts.style import BASE, COLOURS, FONT, INK, MERGED, RULE, set_style, words
from dogerm.scoring import letter
from dogerm.sweep import DomainMap


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
    set_style(figure)
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
            customdata=[[words(c) if c else "" for c in row] for row in cells],
            hovertemplate="λ = %{x:g}, %{y}: %{customdata}<extra></extra>",
            colorscale=[[0, BASE], [0.5, "#f3efe6"], [1, MERGED]],
            colorbar={"title": {"text": "%"}, "outlinewidth": 0},
        )
    )
    set_style(figure)
    figure.update_layout(
        title={"text": escape(group), "font": {"size": 14}},
        margin={"l": 150, "t": 44},
        xaxis={"title": {"text": "λ"}, "showgrid": False},
    )
    return figure
