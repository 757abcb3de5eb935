"""The reward as it grows token by token: where in an answer do two models part?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dogerm.engine import Engine
from dogerm.errors import InputError
from dogerm.recipe import Recipe
from dogerm.scoring import Prompt, answer_start, tokenise


@dataclass(frozen=True)
class Reading:
    """One response, read token by token by the plain reward model and by the merged one.

    Args:
        pieces: the text that each token adds; "" where a character is not whole yet.
        base, merged: the reward read after each token. The last one is the response's.
    """

    pieces: tuple[str, ...]
    base: tuple[float, ...]
    merged: tuple[float, ...]

    def at(self, step: int, merged: bool) -> float:
        """The reward after that many more tokens; after the last one it stays."""
        rewards = self.merged if merged else self.base
        return rewards[min(step, len(rewards) - 1)]


@dataclass(frozen=True)
class Readings:
    """All responses to a prompt under one recipe.

    Args:
        parting: the first token (an index) from which the two models lead with another
            response and go on to do so until the end; None when they end with the same.
        leaders: at `parting`, the leading response of the base model and of the merged.
    """

    recipe: Recipe
    responses: tuple[Reading, ...]
    parting: int | None
    leaders: tuple[int, int] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_json(),
            "responses": [
                {
                    "pieces": list(reading.pieces),
                    "base": list(reading.base),
                    "merged": list(reading.merged),
                }
                for reading in self.responses
            ],
            "parting": self.parting,
            "leaders": list(self.leaders) if self.leaders else None,
        }


def read_tokens(
    engine: Engine, prompt: Prompt, responses: Sequence[str], recipe: Recipe
) -> Readings:
    """Rewards after every token of each response, by the plain reward model and by the recipe.

    One forward pass a response and model. A reward model is trained to be read at the
    end only: before it, the value says what the model makes of the answer so far as if
    it stopped there.

    Raises:
        InputError, TooLong: as `tokenise`; or fewer than two responses.
    """
    if len(responses) < 2:
        raise InputError(f"a comparison needs two responses, got {len(responses)}.")
    sequences = tokenise(engine, prompt, responses).sequences
    starts = [answer_start(engine, prompt, ids) for ids in sequences]
    found = []
    for at in (recipe.with_lam(0), recipe):
        with engine.using(at):
            found.append([engine.along(ids).tolist() for ids in sequences])
    readings = tuple(
        Reading(
            tuple(_pieces(engine, ids)[start:]),
            tuple(base[start:]),
            tuple(merged[start:]),
        )
        for ids, start, base, merged in zip(sequences, starts, *found, strict=True)
    )
    return Readings(recipe, readings, *_parting(readings))


def _pieces(engine: Engine, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text. A character of several tokens appears with its last."""
    pieces, text = [], ""
    for end in range(1, len(ids) + 1):
        longer = engine.tokenizer.decode(ids[:end])
        whole = longer.rstrip("\ufffd") if end < len(ids) else longer
        piece = whole[len(text) :] if whole.startswith(text) else ""
        text += piece
        pieces.append(piece)
    return pieces


def _parting(
    readings: Sequence[Reading],
) -> tuple[int | None, tuple[int, int] | None]:
    def leader(step: int, merged: bool) -> int:
        row = [reading.at(step, merged) for reading in readings]
        return row.index(max(row))

    last = max(len(reading.pieces) for reading in readings) - 1
    parting = leaders = None
    for step in range(last, -1, -1):
        found = leader(step, False), leader(step, True)
        if found[0] == found[1]:
            break
        parting, leaders = step, found
    return parting, leaders
