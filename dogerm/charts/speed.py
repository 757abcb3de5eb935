"""How fast this machine merges and scores, beside other ways."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dogerm.charts.style import BASE, MERGED, set_style

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
    set_style(figure)
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
