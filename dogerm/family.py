"""Family: a reward model with the domain LMs that share its base, read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogerm.errors import FamilyError, RecipeError
from dogerm.recipe import Recipe

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FAMILIES = ASSETS / "families"

_TEXT = ("name", "title", "rm", "parent", "note", "system", "template", "dtype")
_KEYS = {*_TEXT, "lms", "default", "max_tokens", "examples"}


@dataclass(frozen=True)
class Family:
    """Which reward model, which domain LMs, and how conversations are written for them.

    Args:
        name: short name, as on the command line.
        rm: folder or hub id of the reward model.
        lms: folder or hub id of each domain LM, by domain.
        parent: the pretrained base all were fine-tuned from, for methods that need it.
        title, note: shown on the page; the note says what the family is not good for.
        lam, shares: the default recipe.
        system: system message put before every conversation, if any.
        template: chat template (Jinja) that replaces the tokenizer's own, if any.
        max_tokens: limit below the model's own, if any.
        dtype: float32, bfloat16 or float16 for the live model; None: chosen by device.
        examples: a JSONL file of worked examples for the page, if any.
    """

    name: str
    rm: str
    lms: Mapping[str, str]
    parent: str | None = None
    title: str = ""
    note: str = ""
    lam: float = 0.5
    shares: Mapping[str, float] = field(default_factory=dict)
    system: str | None = None
    template: str | None = None
    max_tokens: int | None = None
    dtype: str | None = None
    examples: Path | None = None

    @classmethod
    def of(cls, rm: str | Path, lms: Mapping[str, str | Path], **settings) -> Family:
        """A family named on the spot; equal shares unless settings say otherwise."""
        if not lms:
            raise FamilyError("name at least one domain LM: --lm math=PATH_OR_HUB_ID.")
        lms = {name: str(source) for name, source in lms.items()}
        settings.setdefault("shares", dict.fromkeys(lms, 1.0))
        settings.setdefault("name", Path(str(rm)).name)
        return cls(rm=str(rm), lms=lms, **settings)

    @classmethod
    def load(cls, name: str | Path) -> Family:
        """The family of that name in assets/families, or the one in a TOML file.

        Raises:
            FamilyError: no such family; the file cannot be read or has a slip in it.
        """
        path = Path(name)
        if path.suffix != ".toml":
            path = FAMILIES / f"{name}.toml"
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise FamilyError(
                f"there is no family {str(name)!r}. Known: {', '.join(names())}; "
                "or give a TOML file."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise FamilyError(f"{path} cannot be read: {error}.") from None
        return _from_toml(data, path)

    def recipe(
        self,
        lam: float | None = None,
        shares: Mapping[str, float] | None = None,
        method: str = "linear",
        options: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """A recipe for this family, with its defaults for what is not given.

        Raises:
            RecipeError: a share names an LM that the family does not have.
        """
        shares = shares or self.shares or dict.fromkeys(self.lms, 1.0)
        for name in shares:
            if name not in self.lms:
                raise RecipeError(
                    f"the family {self.name!r} has no domain LM {name!r}; "
                    f"it has {', '.join(self.lms)}."
                )
        return Recipe(
            self.lam if lam is None else lam, shares, method, dict(options or {})
        )


def names() -> list[str]:
    """Names of the families in assets/families."""
    return sorted(path.stem for path in FAMILIES.glob("*.toml"))


def _from_toml(data: dict[str, Any], path: Path) -> Family:
    def fail(sentence: str) -> FamilyError:
        return FamilyError(f"{path}: {sentence}")

    def located(source: str) -> str:
        """A path beside the file, when there is one; else a hub id."""
        if source.startswith((".", "/", "~")):
            return str((path.parent / Path(source).expanduser()).resolve())
        return source

    if unknown := sorted(set(data) - _KEYS):
        raise fail(
            f"unknown key {unknown[0]!r}. Known keys: {', '.join(sorted(_KEYS))}."
        )
    for key in _TEXT:
        if key in data and not isinstance(data[key], str):
            raise fail(f"{key} must be text, got {data[key]!r}.")
    for key in ("rm", "lms"):
        if not data.get(key):
            raise fail(f"{key} is missing.")
    lms = data["lms"]
    if not isinstance(lms, dict) or not all(isinstance(s, str) for s in lms.values()):
        raise fail("[lms] must hold lines like math = 'path or hub id'.")
    default = data.get("default", {})
    if unknown := sorted(set(default) - {"lam", "shares"}):
        raise fail(f"[default] holds lam and shares, not {unknown[0]!r}.")
    family = Family(
        name=data.get("name", path.stem),
        title=data.get("title", ""),
        rm=located(data["rm"]),
        lms={name: located(source) for name, source in lms.items()},
        parent=located(data["parent"]) if "parent" in data else None,
        note=data.get("note", ""),
        lam=default.get("lam", 0.5),
        shares=default.get("shares", dict.fromkeys(lms, 1.0)),
        system=data.get("system"),
        template=data.get("template"),
        max_tokens=data.get("max_tokens"),
        dtype=data.get("dtype"),
        examples=(path.parent / data["examples"]) if "examples" in data else None,
    )
    try:
        family.recipe()  # so that a slip in [default] is reported with the file's name
    except RecipeError as error:
        raise fail(f"[default]: {error}") from None
    return family
