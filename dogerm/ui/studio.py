"""The model behind the page: the one that is live, and how another takes its place."""

from __future__ import annotations

import gc
import html
from typing import Any

import torch

from dogerm import family as families
from dogerm.agreement import agreement_words
from dogerm.engine import Engine
from dogerm.errors import DeviceError, FamilyError
from dogerm.family import PARENT, Example, Family, read_examples
from dogerm.hub import to_download
from dogerm.inspection import Inspection, facts, in_words, inspect
from dogerm.live import DTYPES
from dogerm.merge import METHODS
from dogerm.plan import size_text
from dogerm.provenance import of_models
from dogerm.quantised import Quantised
from dogerm.scoring import score

MAX_DOMAINS = 6  # sliders on the page
AUTO = "auto"


class Studio:
    """Holds the live engine. Loading another leaves the old one in use until it is ready.

    Args:
        engine: live at the start.
        source: what the engine's family is chosen by: its name, or the file it was
            read from.
        local: whether only this machine's own users reach the page, who may write to
            its disk.
    """

    def __init__(self, engine: Engine, source: str, local: bool = False):
        self._live: Engine | None = engine
        self.source, self.local = source, local
        self._given = {source: engine.family}  # it may be in no file at all
        self.examples = read_examples(engine.family)
        self.agreement = agreement_words(engine)
        self._files: tuple[Engine, dict[str, Any]] | None = None

    @property
    def engine(self) -> Engine:
        """The live engine; DeviceError while one is loaded that it had to make room for."""
        if self._live is None:
            raise DeviceError(
                "another model is being loaded, and the one that was live had to make "
                "room. Try again in a moment."
            )
        return self._live

    @property
    def family(self) -> Family:
        return self.engine.family

    def methods(self) -> list[str]:
        """The merge methods that can be used: without a parent, those that need none."""
        parent = PARENT in self.engine.sources.lms
        return [name for name, m in METHODS.items() if parent or not m.needs_parent]

    def choices(self) -> dict[str, list[str]]:
        """What the model panel offers."""
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        listed = families.names()
        return {
            "family": listed if self.source in listed else [self.source, *listed],
            "dtype": [AUTO, *DTYPES],
            "device": [AUTO, *gpus, *([",".join(gpus)] if gpus[1:] else []), "cpu"],
        }

    def files(self) -> dict[str, Any]:
        """Which files the live models are, as `of_models`: local ones are read once, to hash them."""
        engine = self.engine
        if self._files is None or self._files[0] is not engine:
            self._files = (
                engine,
                of_models({"rm": engine.sources.rm, **engine.sources.lms}),
            )
        return self._files[1]

    def preview(
        self, source: str, dtype: str, quantised: Quantised | None, device: str
    ) -> str:
        """HTML on how the family fits together and into memory; reads and downloads no weights."""
        chosen = self._chosen(source)
        found = inspect(chosen, device, _named(dtype), quantised)
        replaces = not found.plan.fits and self._makes_room(found)
        return _html(found, replaces, _to_download(chosen))

    def load(
        self, source: str, dtype: str, quantised: Quantised | None, device: str
    ) -> None:
        """Make another model live. If it cannot be loaded the old one stays, or comes back.

        Raises:
            DogermError: as `Engine.load`.
        """
        chosen = self._chosen(source)
        examples = read_examples(chosen)
        if len(chosen.lms) > MAX_DOMAINS:
            raise FamilyError(
                f"the page has {MAX_DOMAINS} domain sliders and {chosen.name!r} has "
                f"{len(chosen.lms)} domain LMs. Leave some out of its file."
            )
        found = inspect(chosen, device, _named(dtype), quantised)
        if found.plan.fits or not self._makes_room(found):
            self._live = _tried(chosen, examples, device, _named(dtype), quantised)
        else:
            self._replace(chosen, examples, device, _named(dtype), quantised)
        self.source, self.examples = source, examples
        self.agreement = agreement_words(self.engine)

    def _chosen(self, source: str) -> Family:
        return self._given.get(source) or Family.load(source)

    def _makes_room(self, found: Inspection) -> bool:
        """Whether it would fit without the model that is live."""
        held = self.engine.plan.place == "device"
        freed = {part.device: part.needed(held) for part in self.engine.plan.parts}
        plan = found.plan
        return all(
            part.needed(plan.place == "device") <= part.free + freed.get(part.device, 0)
            for part in plan.parts
        )

    def _replace(
        self,
        chosen: Family,
        examples: list[Example],
        device: str,
        dtype: str | None,
        quantised: Quantised | None,
    ) -> None:
        old = self.engine
        settings = (old.family, old.plan.device, old.plan.dtype, old.plan.quantised)
        self._live = old = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self._live = _tried(chosen, examples, device, dtype, quantised)
        finally:
            if self._live is None:
                self._live = Engine.load(*settings)


def _tried(
    family: Family,
    examples: list[Example],
    device: str,
    dtype: str | None,
    quantised: Quantised | None,
) -> Engine:
    """An engine that has scored an example with every LM in the merge.

    So that weights that are no numbers, or too little memory to score, are met while the
    model that is live still is.

    Raises:
        DogermError: as `Engine.load` and `rewards`.
    """
    engine = Engine.load(family, device, dtype, quantised)
    group = [(examples[0].prompt, examples[0].responses)]
    for lam in (0.5, 0):
        score(engine, family.recipe(lam, dict.fromkeys(family.lms, 1.0)), group)
    return engine


def _named(dtype: str) -> str | None:
    return None if dtype == AUTO else dtype


def _to_download(family: Family) -> str:
    """What of the family is not on this machine, as a sentence; nothing when all is."""
    sources = {"the reward model": family.rm, **family.lms}
    sizes = {source: to_download(source, name) for name, source in sources.items()}
    lacking = [
        f"{source} ({size_text(size)})" for source, size in sizes.items() if size
    ]
    if not lacking:
        return ""
    return f"Not on this machine yet: {', '.join(lacking)}. Apply downloads them first."


def _html(found: Inspection, replaces: bool, lacking: str) -> str:
    lines = [*in_words(found), *([lacking] if lacking else [])]
    if replaces:
        lines.append(
            "It does not fit beside the model that is live, which is dropped first; "
            "if loading fails it is loaded again."
        )
    lines += [
        warning
        for warning in found.warnings
        if not (replaces and "are needed on" in warning)
    ]
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div class="plan">{_table(facts(found))}{said}</div>'


def _table(rows: list[tuple[str, ...]]) -> str:
    def cells(row: tuple[str, ...], kind: str) -> str:
        head, *rest = map(html.escape, row)
        own = "".join(f"<{kind}>{text}</{kind}>" for text in rest)
        return f'<tr><th scope="row">{head}</th>{own}</tr>'

    body = "".join(cells(row, "td") for row in rows[1:])
    table = f"<table><thead>{cells(rows[0], 'th')}</thead><tbody>{body}</tbody></table>"
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="The models compared">'
        f"{table}</div>"
    )
