"""Curves and reports as Plotly figures. They know nothing of models or pages.

Colours are hex or rgba only: the page's plotly.js knows no newer notation. Grounds
are transparent and text is mid-grey, so a figure reads on light and dark alike.
"""

from dogerm.charts.accuracy import accuracy_curve, best_of_curve
from dogerm.charts.curves import margin_curve, reward_curve
from dogerm.charts.gains import gains
from dogerm.charts.layers import layer_profile
from dogerm.charts.maps import domain_map, mix_map
from dogerm.charts.speed import speed_bars
from dogerm.charts.style import BASE, FONT, MERGED

__all__ = [
    "BASE",
    "FONT",
    "MERGED",
    "accuracy_curve",
    "best_of_curve",
    "domain_map",
    "gains",
    "layer_profile",
    "margin_curve",
    "mix_map",
    "reward_curve",
    "speed_bars",
]
