"""What an exported checkpoint says of itself: its model card, and the same as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogerm.family import Family
from dogerm.hub import is_weights
from dogerm.merge import METHODS
from dogerm.plan import size_text
from dogerm.provenance import shown, versions
from dogerm.recipe import Recipe

if TYPE_CHECKING:
    from dogerm.export import Export

CARD = """---
{header}
---
# {name}, merged: {formula}

A reward model (one number for an answer) made with DogeRM Studio by merging a general
reward model with language models of a domain. Method {method} ({source}).

| model | source | part |
|---|---|---|
{parts}

- parameters merged: {merged}; kept from the reward model: {kept}
- appended, as only the language models have them: {appended}
- stored in {dtype}, {size}; made with {versions}; the recipe is in `dogerm.json`

## Made from

| model | revision | file | SHA-256 |
|---|---|---|---|
{files}

## How to load

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # where these files are
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
conversation = [
    {{"role": "user", "content": "What is 2 + 2?"}},
    {{"role": "assistant", "content": "4"}},
]
text = tokenizer.apply_chat_template(conversation, tokenize=False)
ids = tokenizer(text, add_special_tokens={special}, return_tensors="pt").input_ids
with torch.inference_mode():
    reward = model(ids).logits.item()
```
{system}
Only differences between rewards of one and the same model mean something. What the
sources may be used for holds for this model too.
"""


def record(family: Family, recipe: Recipe, result: Export, dtype: str) -> dict:
    return {
        "recipe": recipe.to_json(),
        "family": family.name,
        "models": result.models,
        "dtype": dtype,
        "merged": len(result.merged),
        "kept": list(result.kept),
        "left_out": list(result.left_out),
        "appended": list(result.appended),
        "tokens_added": result.tokens_added,
        "versions": versions(),
    }


def card(family: Family, recipe: Recipe, result: Export, dtype: str) -> str:
    """A model card: what was merged and how, and how to load it."""
    sources = {"rm": family.rm} | {name: family.lms[name] for name in recipe.shares}
    hub = [s for s in sources.values() if not Path(s).is_dir()]
    parts = "\n".join(
        f"| {_called(name)} | `{shown(sources[name])}` | {part:.4g} |"
        for name, part in recipe.coefficients.items()
    )
    options = ", ".join(f"{name} = {value}" for name, value in recipe.options.items())
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "merge", "dogerm"],
    } | ({"base_model": hub, "base_model_relation": "merge"} if hub else {})
    # JSON is YAML, and quotes what needs it.
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    return CARD.format(
        header=header,
        name=family.title or family.name,
        formula=recipe.formula,
        method=f"{recipe.method}: {METHODS[recipe.method].formula}"
        + (f", {options}" if options else "")
        + (f"; λ times {recipe.reach}" if recipe.reach else ""),
        source=METHODS[recipe.method].source,
        parts=parts,
        files=_file_rows(result.models),
        merged=len(result.merged),
        kept=", ".join(f"`{name}`" for name in result.kept)
        + (f"; left out: {', '.join(result.left_out)}" if result.left_out else ""),
        appended=_appended(result),
        dtype=dtype,
        special=family.add_special_tokens,
        size=size_text(result.nbytes),
        system=f"\nEvery conversation starts with this system message:\n\n"
        f"```\n{family.system}\n```\n"
        if family.system
        else "",
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )


def _file_rows(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Which files the weights came from, as rows of a table."""
    return "\n".join(
        f"| {_called(name)} | {model.get('revision', '')} | `{file}` | `{digest}` |"
        for name, model in models.items()
        for file, digest in model["files"].items()
        if is_weights(file)
    )


def _called(name: str) -> str:
    return "reward model" if name == "rm" else name


def _appended(result: Export) -> str:
    if not result.appended:
        return "none"
    tokens = ", ".join(f"`{token}`" for token in result.appended[:8])
    more = f" and {len(result.appended) - 8} more" if result.appended[8:] else ""
    known = "" if result.tokens_added else ", unknown to the tokenizer"
    return f"{len(result.appended)} tokens ({tokens}{more}{known})"
