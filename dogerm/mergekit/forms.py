"""How each of our methods stands in mergekit's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CLOSE = 1e-9  # numbers that a file means to be equal


@dataclass(frozen=True)
class Form:
    """How a method's λ and shares stand in mergekit's YAML.

    Args:
        weights: mean, RM 1-λ and LM λ·s; added, RM 1 and LM λ·s; arc, one LM and t = λ;
            whole, no weights, so that only one λ can be said.
        base: what base_model is: the parent, the reward model, or no one.
        options: mergekit's names of the method's own options.
        fixed: settings whose values make it the method that we have.
        one_lm: whether it takes a single LM.
    """

    weights: Literal["mean", "added", "arc", "whole"]
    base: Literal["parent", "rm"] | None
    options: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    one_lm: bool = False


def _ties(*options: str, **fixed: Any) -> Form:
    named = {name: name for name in options}
    return Form("mean", "parent", named, {"normalize": True, "lambda": 1, **fixed})


def _added(*options: str, **fixed: Any) -> Form:
    named = {name: name for name in options}
    return Form("added", "parent", named, {"normalize": False, "lambda": 1, **fixed})


FORMS: Mapping[str, Form] = {
    "linear": Form("mean", None),
    "task_arithmetic": _added(),
    "slerp": Form("arc", "rm", one_lm=True),
    "nuslerp": Form("mean", "parent", fixed={"nuslerp_row_wise": False}, one_lm=True),
    "multislerp": Form("mean", None, fixed={"normalize_weights": True}),
    "karcher": Form("whole", None),
    "ties": _ties("density", rescale=False),
    "dare_linear": _added("density", rescale=True),
    "dare_ties": _ties("density", rescale=True),
    "della_linear": _added("density", "epsilon", rescale=True),
    "della": _ties("density", "epsilon", rescale=True),
    "breadcrumbs": _added("density", "gamma", rescale=False),
    "breadcrumbs_ties": _ties("density", "gamma", rescale=False),
    "sce": Form("whole", "parent", {"density": "select_topk"}),
    "model_stock": Form("whole", "parent", fixed={"filter_wise": False}),
    "nearswap": Form("whole", "rm", {"t": "t"}, one_lm=True),
    "arcee_fusion": Form("whole", "rm", one_lm=True),
}
