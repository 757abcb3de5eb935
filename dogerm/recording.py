"""Curves in a file, with what they were measured on: replayed without a model. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from dogerm.curves import Curve, Flip
from dogerm.errors import DogermError, InputError, RecordingError
from dogerm.recipe import MAX_GRID, Recipe
from dogerm.texts import check_text, letter

KIND, FORMAT = "recording", 1
LARGEST = 8_000_000  # characters of a file
MOST_TAKES = 200
MOST_RESPONSES = 8
LONGEST = 200_000  # characters of all responses of a take, and of its instruction
LONGEST_NAME = 200  # characters of a model's, a device's, a domain's name


@dataclass(frozen=True)
class Made:
    """What a take's rewards were measured on, and when.

    Args:
        family: its title.
        parameters: of the live model.
        device: cpu, or the GPU's model.
        date: ISO 8601, with the offset from UTC.
        versions: of the programs.
        models: of each model its source, hub revision if any, and its files' SHA-256;
            empty if they were not asked for.
    """

    family: str
    parameters: int
    device: str
    dtype: str
    date: str
    versions: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "parameters": self.parameters,
            "device": self.device,
            "dtype": self.dtype,
            "date": self.date,
            "versions": dict(self.versions),
            "models": {name: dict(model) for name, model in self.models.items()},
        }

    @property
    def where(self) -> str:
        """What every replay is marked with: model, device, precision, date."""
        return f"{self.family} on {self.device}, {self.dtype}, {self.date[:10]}"


@dataclass(frozen=True)
class Take:
    """A curve as it was shown.

    Args:
        recipe: at the λ that was shown last.
        curve: the rewards over λ, from 0 to 1.
        measured: exact rewards at λs between the curve's, by λ.
    """

    prompt: str
    responses: tuple[str, ...]
    recipe: Recipe
    curve: Curve
    made: Made
    measured: Mapping[float, tuple[float, ...]] = field(default_factory=dict)

    @property
    def points(self) -> dict[float, tuple[float, ...]]:
        """Every exact row of rewards, by λ in ascending order."""
        own = dict(zip(self.curve.lams, self.curve.rewards)) | dict(self.measured)
        return dict(sorted(own.items()))

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "responses": list(self.responses),
            "recipe": self.recipe.to_json(),
            "curve": self.curve.to_json(),
            "measured": [
                {"lam": lam, "rewards": list(row)} for lam, row in self.measured.items()
            ],
            "made": self.made.to_json(),
        }


def to_text(takes: Sequence[Take]) -> str:
    """The file."""
    head = {"dogerm": KIND, "format": FORMAT}
    data = head | {"takes": [take.to_json() for take in takes]}
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def read_text(text: str, name: str) -> list[Take]:
    """The takes of a file, which may be anybody's and hold anything.

    Args:
        name: what the file is called in errors.

    Raises:
        RecordingError: it is no recording, of another version, damaged, or too large.
    """
    if len(text) > LARGEST:
        raise RecordingError(
            f"{name} has more than {LARGEST:,} characters; a recording has fewer. "
            "Record fewer curves."
        )
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordingError(
            f"{name} is no recording, or was cut: it is not JSON. Save it anew."
        ) from None
    if not isinstance(data, dict) or data.get("dogerm") != KIND:
        raise RecordingError(
            f"{name} is no recording of this page. One is made by Save recording."
        )
    if data.get("format") != FORMAT:
        raise RecordingError(
            f"{name} was saved by another version of dogerm (its format is "
            f"{data.get('format')!r:.20}, this version's {FORMAT}). "
            "Open it with that version."
        )
    takes = data.get("takes")
    if not isinstance(takes, list) or not 1 <= len(takes) <= MOST_TAKES:
        raise RecordingError(f"{name} must hold 1 to {MOST_TAKES} curves.")
    return [_take(one, f"{name}, curve {n}") for n, one in enumerate(takes, start=1)]


def _take(data: Any, where: str) -> Take:
    try:
        prompt, responses = data["prompt"], _list(data["responses"])
        check_text(prompt, "the instruction")
        for index, response in enumerate(responses):
            check_text(response, f"response {letter(index)}")
        _check(2 <= len(responses) <= MOST_RESPONSES, "the number of responses")
        long = max(len(prompt), sum(map(len, responses))) > LONGEST
        _check(not long, "the length of its texts")
        recipe = _recipe(data["recipe"])
        return Take(
            prompt,
            tuple(responses),
            recipe,
            _curve(data["curve"], recipe, len(responses)),
            _made(data["made"]),
            {
                _share(one["lam"]): _row(one["rewards"], len(responses))
                for one in _list(data.get("measured", []))[:MAX_GRID]
            },
        )
    except DogermError as error:
        raise RecordingError(f"{where} is damaged: {error}") from None
    except KeyError as error:
        raise RecordingError(f"{where} is damaged: {error} is missing.") from None
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise RecordingError(
            f"{where} is damaged: a part of it is not of its kind."
        ) from None


def _curve(data: Mapping[str, Any], recipe: Recipe, responses: int) -> Curve:
    lams = tuple(map(_share, _list(data["lams"])))
    ascending = all(low < high for low, high in pairwise(lams))
    _check(2 <= len(lams) <= MAX_GRID and ascending, "its λs")
    _check((lams[0], lams[-1]) == (0, 1), "its λs, which must reach from 0 to 1,")
    rows = tuple(_row(row, responses) for row in _list(data["rewards"]))
    _check(len(rows) == len(lams), "the number of its rewards")
    flips = tuple(
        Flip(_share(one["lam"]), *(_index(one[k], responses) for k in _ENDS))
        for one in _list(data["flips"])
    )
    return Curve(lams, rows, flips, recipe)


_ENDS = ("before", "after")


def _recipe(data: Mapping[str, Any]) -> Recipe:
    _check(isinstance(data["shares"], dict), "its weights")
    for name in (*data["shares"], data["method"], *data.get("options", {})):
        _name(name)
    given = {name: _number(value) for name, value in data.get("options", {}).items()}
    shares = {name: _number(value) for name, value in data["shares"].items()}
    return Recipe.from_json(
        dict(data) | {"lam": _share(data["lam"]), "shares": shares, "options": given}
    )


def _made(data: Mapping[str, Any]) -> Made:
    datetime.fromisoformat(_name(data["date"]))
    versions = {_name(k): _name(v) for k, v in data.get("versions", {}).items()}
    return Made(
        family=_name(data["family"]),
        parameters=int(_number(data["parameters"])),
        device=_name(data["device"]),
        dtype=_name(data["dtype"]),
        date=data["date"],
        versions=versions,
        models={
            _name(name): {
                "source": _name(model["source"]),
                **(
                    {"revision": _name(model["revision"])}
                    if "revision" in model
                    else {}
                ),
                "files": {_name(k): _name(v) for k, v in model["files"].items()},
            }
            for name, model in data.get("models", {}).items()
        },
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"a list is wanted, got {value!r:.40}.")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"a number is wanted, got {value!r:.40}.")
    if not math.isfinite(value):
        raise InputError(f"a finite number is wanted, got {value}.")
    return float(value)


def _share(value: Any) -> float:
    _check(0 <= (number := _number(value)) <= 1, "a λ")
    return number


def _row(value: Any, responses: int) -> tuple[float, ...]:
    _check(len(_list(value)) == responses, "the number of its rewards")
    return tuple(map(_number, value))


def _index(value: Any, responses: int) -> int:
    _check(type(value) is int and 0 <= value < responses, "a flip")
    return value


def _name(value: Any) -> str:
    check_text(value, "a name")
    _check(len(value) <= LONGEST_NAME, "the length of a name")
    return value


def _check(right: bool, what: str) -> None:
    if not right:
        raise InputError(f"{what} cannot be right.")
