"""Which layer and which part of a model each parameter belongs to, asked of the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from dogerm.errors import RecipeError
from dogerm.recipe import PARTS, Recipe


@dataclass(frozen=True)
class Place:
    """Where a parameter sits: by which layer, from 0, and in which of PARTS, if in any.

    Args:
        inside: whether it is the layer's own, not just goes with it.
    """

    layer: int
    part: str | None
    inside: bool = True


@dataclass(frozen=True)
class Anatomy:
    """Where every parameter of a model's backbone sits.

    Args:
        kind: of the model, as errors call it.
        layers: how many there are; 0 when the model does not say.
        places: by parameter. Embeddings sit in the first layer, a final norm in the last.
    """

    kind: str
    layers: int
    places: Mapping[str, Place]

    def check(self, recipe: Recipe) -> None:
        """RecipeError when the recipe's layers or parts cannot be meant for this model."""
        if recipe.layers != "constant":
            if not self.layers:
                raise RecipeError(
                    f"a {self.kind} model does not say which its layers are; leave out --layers."
                )
            recipe.depth(self.layers)
        nowhere = [name for name, place in self.places.items() if not place.part]
        if recipe.parts and nowhere:
            raise RecipeError(
                f"{nowhere[0]} of a {self.kind} model is none of {', '.join(PARTS)}, as far "
                "as the model says; leave out --part."
            )

    def local(self, recipe: Recipe, name: str) -> Recipe:
        """What the recipe asks of one parameter: itself, with λ as it is there."""
        if not recipe.reach:
            return recipe
        place = self.places[name]
        depth = (
            1.0
            if recipe.layers == "constant"
            else recipe.depth(self.layers)[place.layer]
        )
        return recipe.everywhere(depth * recipe.parts.get(place.part, 1.0))


def dissect(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a model, whose weights may be on the meta device.

    Layers are the list of modules as long as the configuration says. Attention is the
    class whose outputs transformers records as attentions; embeddings are tables; norms
    are modules with nothing but vectors, in attention too; mlp is the rest of a layer.
    """
    backbone = model.get_submodule(model.base_model_prefix)
    count = getattr(model.config, "num_hidden_layers", 0)
    lists = (m for m in backbone.modules() if isinstance(m, nn.ModuleList))
    stack = next((m for m in lists if len(m) == count), nn.ModuleList())
    layer_of = {p: i for i, layer in enumerate(stack) for p in layer.parameters()}
    attention = _attention(backbone)
    attending = {p for m in attention for p in m.parameters()}

    def part(owner: nn.Module, parameter: nn.Parameter) -> str | None:
        if isinstance(owner, nn.Embedding):
            return "embeddings"
        if all(p.ndim == 1 for p in owner.parameters(recurse=False)):
            return "norms"
        if parameter in attending:
            return "attention"
        return "mlp" if attention and parameter in layer_of else None

    places: dict[str, Place] = {}
    outside = 0  # the first layer's, until the layers are passed
    for path, owner in backbone.named_modules(prefix=model.base_model_prefix):
        for name, parameter in owner.named_parameters(recurse=False):
            inside = parameter in layer_of
            outside = len(stack) - 1 if inside else outside
            layer = layer_of.get(parameter, outside)
            places[f"{path}.{name}"] = Place(layer, part(owner, parameter), inside)
    return Anatomy(model.config.model_type, len(stack), places)


def _attention(backbone: nn.Module) -> list[nn.Module]:
    """The modules whose outputs transformers records as attentions; none if it does not say."""
    recorder = (getattr(backbone, "_can_record_outputs", None) or {}).get("attentions")
    kind = getattr(recorder, "target_class", recorder)
    if not isinstance(kind, type):
        return []
    return [module for module in backbone.modules() if isinstance(module, kind)]
