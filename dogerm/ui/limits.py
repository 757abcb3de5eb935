"""What one visitor may ask for: on a page of one's own, and on one for strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dogerm.errors import InputError
from dogerm.family import Family
from dogerm.provenance import shown

MAX_RESPONSES = 8  # boxes on the page


@dataclass(frozen=True)
class Limits:
    """Held against every event and every endpoint of a page.

    Args:
        characters: of an instruction and its responses together; the model's own limit,
            in tokens, is held too.
        pairs: of one file, or of one call.
        lams: of one curve, or of one call of pairs.
        megabytes: of one file, or of one request.
        waiting: visitors in line for the engine; None: no end.
        kept_seconds: how long an uploaded file stays; None: until the page is closed.
        named_here: whether a page may name folders of this machine.
    """

    characters: int
    pairs: int
    lams: int
    megabytes: int
    waiting: int | None
    kept_seconds: int | None
    named_here: bool

    def check_texts(self, prompt: Any, responses: Sequence[Any]) -> None:
        """InputError: not 2 to 8 responses, or more characters than are taken."""
        if not 2 <= len(responses) <= MAX_RESPONSES:
            raise InputError(
                f"a comparison takes 2 to {MAX_RESPONSES} responses, got {len(responses)}."
            )
        characters = sum(len(str(text)) for text in (prompt, *responses))
        if characters > self.characters:
            raise InputError(
                f"the instruction and the responses have {characters:,} characters; "
                f"this page takes {self.characters:,}. Shorten them."
            )

    def check_pairs(self, count: int) -> None:
        """InputError: more pairs than are taken at a time."""
        if count > self.pairs:
            raise InputError(
                f"there are {count:,} pairs; this page takes {self.pairs:,} at a time. "
                "Use `python -m dogerm bench pairs` for more."
            )

    def check_lams(self, lams: Sequence[float] | None) -> None:
        """InputError: a longer grid of λ than is taken."""
        if isinstance(lams, Sequence) and len(lams) > self.lams:
            raise InputError(
                f"the grid has {len(lams):,} λs; this page takes {self.lams:,}. "
                "Use `python -m dogerm sweep` for more."
            )

    def told(self, family: Family) -> Family:
        """The family as the page may name it: for strangers, folders by their last name."""
        if self.named_here:
            return family
        lms = {domain: shown(source) for domain, source in family.lms.items()}
        parent = family.parent and shown(family.parent)
        return replace(family, rm=shown(family.rm), lms=lms, parent=parent)


LOCAL = Limits(
    characters=200_000,
    pairs=20_000,
    lams=1_001,
    megabytes=64,
    waiting=None,
    kept_seconds=None,
    named_here=True,
)
PUBLIC = Limits(
    characters=20_000,
    pairs=2_000,
    lams=51,
    megabytes=4,
    waiting=64,
    kept_seconds=3600,
    named_here=False,
)
