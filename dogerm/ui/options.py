"""The settings of the chosen merge method: widgets made of the table METHODS, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from dogerm.merge import METHODS, Option

STEPS = 100  # of a slider
Widgets = Mapping[str, gr.Slider | gr.Number]


def widgets() -> Widgets:
    """One for every name that an option has in METHODS, all hidden; seeds come last.

    Methods share the widget of a name, which `shown` sets to the method's own range,
    default and meaning.
    """
    named: dict[str, list[Option]] = {}
    for method in METHODS.values():
        for name, option in method.options.items():
            named.setdefault(name, []).append(option)
    order = sorted(named, key=lambda name: not named[name][0].searched)
    return {name: _widget(name, named[name]) for name in order}


def shown(
    method: str, made: Widgets, values: Mapping[str, float] | None = None
) -> list[gr.Slider | gr.Number]:
    """The widgets, with the method's options shown at these values, else their defaults."""
    options, values = METHODS[method].options, values or {}

    def of(name: str, kind: type[gr.Slider | gr.Number]) -> gr.Slider | gr.Number:
        if name not in options:
            return kind(visible=False)
        settings = _settings(options[name], kind)
        if name in values:
            settings["value"] = values[name]
        return kind(visible=True, **settings)

    return [of(name, type(widget)) for name, widget in made.items()]


def given(method: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The method's options by name, of the values of all widgets in their order.

    A widget that was never shown, or was emptied, has the value None: the default is meant.
    """
    options = METHODS[method].options if method in METHODS else {}
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if name in options and value is not None
    }


def _widget(name: str, options: Sequence[Option]) -> gr.Slider | gr.Number:
    slides = all(option.searched and not option.logarithmic for option in options)
    kind = gr.Slider if slides else gr.Number
    return kind(
        label=name,
        visible=False,
        elem_id=f"option-{name}",
        elem_classes="option",
        **_settings(options[0], kind),
    )


def _settings(option: Option, kind: type) -> dict[str, Any]:
    settings = {
        "value": option.default,
        "info": f"{option.meaning}; {option.range}, default {option.default:g}",
    }
    if kind is gr.Number:  # the library says what is wrong with a number
        return settings
    step = 1 if option.whole else (option.high - option.low) / STEPS
    low = option.low + step if option.above else option.low
    return settings | {"minimum": low, "maximum": option.high, "step": step}
