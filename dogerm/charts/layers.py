"""What merging one spot of the model alone does."""

from __future__ import annotations

import plotly.graph_objects as go

from dogerm.charts.style import BASE, FONT, INK, MERGED, PALE, RULE, set_style
from dogerm.scan import Profile


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
    set_style(figure)
    figure.update_layout(
        margin={"l": 66, "r": 112, "t": 26, "b": 92 if upright else 56},
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
