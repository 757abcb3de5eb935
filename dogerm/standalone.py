"""HTML files that open anywhere, without a network: charts, tables, text, all escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

import plotly.graph_objects as go

from dogerm.charts import FONT, reward_curve
from dogerm.recording import Take
from dogerm.texts import letter

# Nothing is fetched even if a figure should ask for it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)
_STYLE = f"""
body {{ font: 15px/1.5 {FONT}; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  color: #26241f; background: #fbf9f5; font-variant-numeric: tabular-nums; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd8cd;
  white-space: nowrap; font-weight: 400; }}
th {{ color: #6a665d; }} th:first-child, td:first-child {{ text-align: left; }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }}
small {{ color: #6a665d; }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #e8e4da; background: #161513; }} th, td {{ border-color: #3a3833; }}
  th, small {{ color: #a39e92; }} }}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file.

    Args:
        title: escaped here.
        parts: HTML, with what others wrote escaped.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def of_take(take: Take) -> str:
    """A curve as a file of its own: the comparison, both charts, every number, what they depend on."""
    recipe, points = take.recipe, take.points
    lam = recipe.lam
    now = points.get(lam)  # measured or not at the λ that was shown
    letters = [letter(index) for index in range(len(take.responses))]
    rows = [
        [
            name,
            f'<span class="text">{escape(text)}</span>',
            f"{points[0.0][index]:.4f}",
            f"{now[index]:.4f}" if now else "–",
        ]
        for index, (name, text) in enumerate(zip(letters, take.responses))
    ]
    numbers = [
        [f"{at:g}", *(f"{reward:.6f}" for reward in row)] for at, row in points.items()
    ]
    flips = [
        f"{letter(flip.before)} → {letter(flip.after)} at λ ≈ {flip.lam:.2f}"
        for flip in take.curve.flips
    ]
    changes = (
        f"The top response changes: {', '.join(flips)}."
        if flips
        else "The top response is the same at every λ."
    )
    what = f"DogeRM = {recipe.formula}. Measured with {take.made.where}."
    about = {"recipe": recipe.to_json(), "made": take.made.to_json()}
    return document(
        f"DogeRM: {take.prompt[:80]}",
        [
            f'<h1 class="text">{escape(take.prompt)}</h1>',
            f"<p>{escape(what)}</p>",
            table(["", "response", "base RM", f"DogeRM at λ = {lam:g}"], rows),
            f"<p>{changes}</p>",
            "<h2>Reward against λ, minus the mean of the responses</h2>",
            figure_html(reward_curve(take.curve, lam, centred=True), 0),
            "<h2>Reward against λ</h2>",
            figure_html(reward_curve(take.curve, lam), 1),
            "<h2>Every reward</h2>",
            table(["λ", *letters], numbers),
            "<h2>What the numbers depend on</h2>",
            f"<pre>{escape(json.dumps(about, ensure_ascii=False, indent=1))}</pre>",
        ],
    )


def figure_html(figure: go.Figure, number: int) -> str:
    """A chart; the first one, number 0, brings plotly.js for all."""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=number == 0,  # the library itself, once
        include_mathjax=False,
        div_id=f"figure-{number}",
        default_height="430px",
        config={"displaylogo": False, "displayModeBar": "hover"},
    )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The head is escaped here, the cells are not: they are HTML."""
    top = "".join(f"<th>{escape(name).replace(chr(10), '<br>')}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
        for cells in lines
    )
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'
