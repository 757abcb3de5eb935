"""Family: a reward model with the domain LMs that share its base, read from a TOML file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dogerm.errors import FamilyError, RecipeError
from dogerm.recipe import Recipe

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FAMILIES = ASSETS / "families"

# Where in a conversation a reward is read: at its last token; at its last that is no padding,
# as transformers 5 does; at the last before the first padding, as transformers 4 did. Where
# the padding token also ends a turn, as </s> of Llama 2 can, they are three places.
RewardAt = Literal["end", "text-end", "first-pad"]
# What becomes of a conversation with more tokens than are read: refused, left out and
# counted, or cut at its beginning or its end.
WhenTooLong = Literal["error", "skip", "cut", "cut-end"]

# How the pretrained base is called among the LMs; no LM can have this name.
PARENT = "the parent"

# How conversations are read: what [paper] in a family file may change.
_READING = {
    "system": str,
    "template": str,
    "add_special_tokens": bool,
    "max_tokens": int,
    "reward_at": str,
    "too_long": str,
}
# What a family file may hold, and what each must be.
_KEYS = {
    "name": str,
    "title": str,
    "note": str,
    "rm": str,
    "parent": str,
    "lms": dict,
    "notes": dict,
    "default": dict,
    "setting": list,
    "paper": dict,
    "dtype": str,
    "examples": str,
} | _READING
_CHOICES = {"reward_at": get_args(RewardAt), "too_long": get_args(WhenTooLong)}
_CALLED = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    dict: "a table",
    list: "tables, each under a line [[setting]]",
}
_SETTING_KEYS = ("name", "lam", "shares")
_DTYPES = ("float32", "bfloat16", "float16")
# A hub id, ORG/NAME, with the revision that is wanted after an @.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Example:
    """A worked example: what to look for, an instruction and its responses."""

    title: str
    prompt: str
    responses: tuple[str, ...]
    shares: dict[str, float] | None = None
    lam: float | None = None
    method: str = "linear"
    options: dict[str, float] = field(default_factory=dict)
    pins: tuple[dict[str, Any], ...] = ()  # other settings, to compare with


@dataclass(frozen=True)
class Setting:
    """A named setting that is worth a look, one click away on the page."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Family:
    """Which reward model, which domain LMs, and how conversations are written for them.

    Args:
        name: short name, as on the command line.
        rm: folder or hub id (ORG/NAME, ORG/NAME@REVISION) of the reward model.
        lms: folder or hub id of each domain LM, by domain.
        parent: the pretrained base all were fine-tuned from, for methods that need it.
        title, note: shown on the page; the note says what the family is not good for.
        notes: a sentence on some of the LMs, by domain.
        lam, shares: the default recipe.
        own_settings: named by the family; `settings` has them and those every family has.
        system: system message put before every conversation, if any.
        template: chat template (Jinja) that replaces the tokenizer's own, if any.
        add_special_tokens: let the tokenizer add its own on top of the template's. With
            a template that writes a BOS that makes two, as some RMs were trained.
        max_tokens: limit below the model's own, if any.
        reward_at: where the reward is read; None: as transformers reads such a model.
        too_long: what a benchmark does with a longer conversation, unless asked otherwise.
        paper: what of these the paper's code did otherwise, by name: see `under`.
        dtype: float32, bfloat16 or float16 for the live model; None: chosen by device.
        examples: a JSONL file of worked examples for the page, if any.
    """

    name: str
    rm: str
    lms: Mapping[str, str]
    parent: str | None = None
    title: str = ""
    note: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    lam: float = 0.5
    shares: Mapping[str, float] = field(default_factory=dict)
    own_settings: Sequence[Setting] = ()
    system: str | None = None
    template: str | None = None
    add_special_tokens: bool = False
    max_tokens: int | None = None
    reward_at: RewardAt | None = None
    too_long: WhenTooLong = "error"
    paper: Mapping[str, Any] = field(default_factory=dict)
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
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except (FileNotFoundError, NotADirectoryError):
            raise FamilyError(
                f"there is no family {str(name)!r}. Known: {', '.join(names())}; "
                "or give a TOML file."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise FamilyError(f"{path} cannot be read: {error}.") from None
        return _from_toml(data, text, path)

    def under(self, preset: str) -> Family:
        """The family that reads conversations as a preset does.

        "paper" does as the paper's code where the family's file says how that was;
        otherwise, and always in "corrected", they are read as the reward model was made to.
        """
        return replace(self, **self.paper) if preset == "paper" else self

    @property
    def recording(self) -> Path | None:
        """Where the examples' curves are recorded, if they are: beside the examples."""
        return self.examples and self.examples.with_suffix(".recording.json")

    def recipe(
        self,
        lam: float | None = None,
        shares: Mapping[str, float] | None = None,
        method: str = "linear",
        options: Mapping[str, Any] | None = None,
        layers: str | Sequence[float] = "constant",
        parts: Mapping[str, float] | None = None,
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
        lam = self.lam if lam is None else lam
        return Recipe(lam, shares, method, dict(options or {}), layers, parts or {})

    def settings(self) -> list[Setting]:
        """The plain reward model, the default, each domain alone; then the family's own.

        One of its own takes the place of the one of that name. A domain alone is left
        out where that is the default.
        """
        default = self.recipe()
        named = {"base RM": default.with_lam(0), "default": default}
        for name in self.lms:
            alone = self.recipe(shares={name: 1.0})
            if alone != default:
                named[f"{name} alone"] = alone
        named |= {setting.name: setting.recipe for setting in self.own_settings}
        return [Setting(name, recipe) for name, recipe in named.items()]


def read_examples(family: Family) -> list[Example]:
    """The family's examples; a plain one for a family that has none.

    Raises:
        FamilyError: the file cannot be read, or holds something else.
    """
    if family.examples is None:
        responses = ("A prime has exactly two divisors.", "A prime is an odd number.")
        return [Example("A first pair", "What is a prime number?", responses)]
    try:
        lines = family.examples.read_text("utf-8").splitlines()
        return [
            Example(
                row["title"],
                row["prompt"],
                tuple(row["responses"]),
                row.get("shares"),
                row.get("lam"),
            )
            for row in map(json.loads, lines)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FamilyError(
            f"the examples in {family.examples} cannot be read: {error!r}."
        ) from None


def names() -> list[str]:
    """Names of the families in assets/families."""
    return sorted(path.stem for path in FAMILIES.glob("*.toml"))


def _from_toml(data: dict[str, Any], text: str, path: Path) -> Family:
    def fail(sentence: str, *keys: str) -> FamilyError:
        """The error; keys lead to the line it is about, from the outer table inwards."""
        line = _line_of(text, keys)
        return FamilyError(f"{path}{f', line {line}' if line else ''}: {sentence}")

    def source(value: str, *keys: str) -> str:
        """A folder beside the file, or a hub id."""
        if value.startswith((".", "/", "~")):
            return str((path.parent / Path(value).expanduser()).resolve())
        if not _HUB_ID.fullmatch(value):
            raise fail(
                f"{value!r} is neither a path, which starts with . or / or ~, nor a hub "
                "id like ORG/NAME or ORG/NAME@REVISION.",
                *keys,
            )
        return value

    _check(data, fail)
    lms, default = data["lms"], data.get("default", {})
    family = Family(
        name=data.get("name", path.stem),
        title=data.get("title", ""),
        rm=source(data["rm"], "rm"),
        lms={name: source(value, "lms", name) for name, value in lms.items()},
        parent=source(data["parent"], "parent") if "parent" in data else None,
        note=data.get("note", ""),
        notes=data.get("notes", {}),
        lam=default.get("lam", 0.5),
        shares=default.get("shares", dict.fromkeys(lms, 1.0)),
        system=data.get("system"),
        template=data.get("template"),
        add_special_tokens=data.get("add_special_tokens", False),
        max_tokens=data.get("max_tokens"),
        reward_at=data.get("reward_at"),
        too_long=data.get("too_long", "error"),
        paper=data.get("paper", {}),
        dtype=data.get("dtype"),
        examples=(
            (path.parent / data["examples"]).resolve() if "examples" in data else None
        ),
    )
    try:
        family.recipe()  # so that a slip in [default] is reported with the file's name
    except RecipeError as error:
        slip = "lam" if "λ" in str(error) else "shares"
        raise fail(f"[default]: {error}", "default", slip) from None
    own = _settings(family, data.get("setting", ()), fail)
    return replace(family, own_settings=own)


def _settings(
    family: Family, tables: Sequence[Any], fail: Callable[..., FamilyError]
) -> tuple[Setting, ...]:
    """The [[setting]] tables; what one leaves out is the family's default."""
    found: dict[str, Setting] = {}
    for number, table in enumerate(tables):
        at = ("setting", str(number))
        if not isinstance(table, dict):
            raise fail(
                f"setting must be {_CALLED[list]}, got {table!r:.80}.", "setting"
            )
        for key in table:
            if key not in _SETTING_KEYS:
                known = ", ".join(_SETTING_KEYS)
                raise fail(f"[[setting]] holds {known}, not {key!r}.", *at, key)
        name, shares = table.get("name"), table.get("shares", {})
        if not isinstance(name, str) or not name.strip():
            raise fail(
                "a [[setting]] must have a name, text for its chip.", *at, "name"
            )
        if name in found:
            raise fail(f"there is another [[setting]] named {name!r}.", *at, "name")
        if not isinstance(shares, dict):
            raise fail("shares must be a table like { math = 1 }.", *at, "shares")
        try:
            found[name] = Setting(name, family.recipe(table.get("lam"), shares))
        except RecipeError as error:
            slip = "lam" if "λ" in str(error) else "shares"
            raise fail(f"[[setting]] {name!r}: {error}", *at, slip) from None
    return tuple(found.values())


def _check(data: dict[str, Any], fail: Callable[..., FamilyError]) -> None:
    """Raises what `fail` makes of the first key that is unknown, missing or not as it must be."""
    _check_keys(data, _KEYS, fail)
    for key in ("rm", "lms"):
        if not data.get(key):
            raise fail(f"{key} is missing.", key)
    for table in ("lms", "notes"):
        for name, value in data.get(table, {}).items():
            if not isinstance(value, str):
                raise fail(
                    f"{name} in [{table}] must be text, got {value!r:.80}.", table, name
                )
            if name not in data["lms"]:
                raise fail(f"there is a note on {name!r} but no such LM.", table, name)
    for key, value in data.get("default", {}).items():
        if key not in ("lam", "shares"):
            raise fail(f"[default] holds lam and shares, not {key!r}.", "default", key)
        if key == "shares" and not isinstance(value, dict):
            raise fail("shares must be a table like { math = 1 }.", "default", key)
    _check_keys(data.get("paper", {}), _READING, fail, "paper")
    if data.get("dtype", _DTYPES[0]) not in _DTYPES:
        raise fail(f"dtype must be one of {', '.join(_DTYPES)}.", "dtype")


def _check_keys(
    data: dict[str, Any],
    known: Mapping[str, type],
    fail: Callable[..., FamilyError],
    *table: str,
) -> None:
    """Raises what `fail` makes of the first key of a table that is unknown or not as it must be."""
    for key, value in data.items():
        if key not in known:
            raise fail(
                f"unknown key {key!r}. Known keys: {', '.join(sorted(known))}.",
                *table,
                key,
            )
        if type(value) is not known[key]:
            wanted = _CALLED[known[key]]
            raise fail(f"{key} must be {wanted}, got {value!r:.80}.", *table, key)
        if key in _CHOICES and value not in _CHOICES[key]:
            choices = ", ".join(_CHOICES[key])
            raise fail(f"{key} must be one of {choices}, got {value!r}.", *table, key)
        if key == "max_tokens" and value < 1:
            raise fail("max_tokens must be 1 or more.", *table, key)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line where a key is set, or else the nearest table around it that has a line.

    Reads headers and `key =` at the start of lines, which is how these files are written;
    a key set in another way is reported without its line.
    """
    found, header, settings = None, (), 0
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*setting\s*\]\]", line):
            here = header = ("setting", str(settings))
            settings += 1
        elif match := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            header = tuple(match[1].split("."))
            here = header
        elif match := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            here = (*header, match[1])
        else:
            continue
        if here == keys:
            return number
        if here and here == keys[: len(here)]:
            found = number
    return found
