"""How the page looks: one typeface that ships with Gradio, paper and ink, two colours."""

import json
from pathlib import Path

import gradio as gr

_HERE = Path(__file__).parent


def _all(*first: str) -> str:
    """The page's own files, then each panel's."""
    own = [_HERE / name for name in first]
    panels = [p for p in sorted(_HERE.glob(f"*{own[0].suffix}")) if p not in own]
    return "\n".join(path.read_text(encoding="utf-8") for path in (*own, *panels))


def _words() -> str:
    """The dictionary English -> 繁體中文, where words.js reads it when it is wanted."""
    words = json.loads((_HERE / "zh-Hant.json").read_text(encoding="utf-8"))
    # "<" only as an escape: nothing in it can end the element.
    text = json.dumps(words, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="dogerm-words">{text}</script>'


CSS = _all("page.css")
# Gradio scopes CSS to its container, so the root's size is set in the head: larger
# type where a page is looked at from afar. Gradio's own sizes are in pixels; at
# projector size they follow the root's.
_SIZES = {"xxs": 0.7, "xs": 0.75, "sm": 0.85, "md": 1, "lg": 1.1, "xl": 1.4, "xxl": 1.7}
_GROWN = " ".join(f"--text-{name}: {size}rem;" for name, size in _SIZES.items())
_ROOT = f"""<style>
@media (min-width: 1800px) {{ html {{ font-size: 18.5px; }} }}
html.projector {{ font-size: max(18px, 1.3vw); --fine: none; --above: 16.5rem; }}
html.projector:root, html.projector .dark {{ {_GROWN} }}
</style>"""
HEAD = f"{_ROOT}{_words()}<script>{_all('words.js', 'page.js')}</script>"


def theme() -> gr.themes.Base:
    # LocalFont: GoogleFont would ask a host outside. Bold, as the semi-bold file that
    # ships with Gradio holds no Latin letters.
    plex = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
    return gr.themes.Base(
        primary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.stone,
        font=[plex, "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono"), "ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_md,
    ).set(
        body_background_fill="#faf8f4",
        body_background_fill_dark="#15161a",
        body_text_color="#1f2126",
        body_text_color_dark="#e9e6df",
        body_text_color_subdued="#6d6a63",
        body_text_color_subdued_dark="#a09c93",
        background_fill_primary="#faf8f4",
        background_fill_primary_dark="#15161a",
        background_fill_secondary="#f3f0e9",
        background_fill_secondary_dark="#1d1f24",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_padding="0",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_border_width="0px",
        block_title_padding="0",
        block_title_text_color="#6d6a63",
        block_title_text_color_dark="#a09c93",
        block_title_text_size="0.8rem",
        block_title_text_weight="400",
        border_color_primary="#e2ddd2",
        border_color_primary_dark="#33353c",
        input_background_fill="#fffefb",
        input_background_fill_dark="#1b1d22",
        input_border_color="#e2ddd2",
        input_border_color_dark="#33353c",
        input_border_color_focus="#c9820c",
        input_border_color_focus_dark="#e2a33c",
        input_shadow="none",
        input_shadow_focus="none",
        slider_color="#c9820c",
        slider_color_dark="#e2a33c",
        button_primary_background_fill="#1f2126",
        button_primary_background_fill_dark="#e9e6df",
        button_primary_background_fill_hover="#3a3d44",
        button_primary_background_fill_hover_dark="#ffffff",
        button_primary_text_color="#faf8f4",
        button_primary_text_color_dark="#15161a",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover="#f3f0e9",
        button_secondary_background_fill_hover_dark="#1d1f24",
        button_secondary_border_color="#e2ddd2",
        button_secondary_border_color_dark="#33353c",
        button_primary_border_color="#1f2126",
        button_primary_border_color_dark="#e9e6df",
        button_primary_border_color_hover="#3a3d44",
        button_primary_border_color_hover_dark="#ffffff",
        button_border_width="1px",
    )
