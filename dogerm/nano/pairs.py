"""Files to judge a reward model with: held-out pairs, and candidate sets for best-of-16."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from transformers import AutoTokenizer

from dogerm.errors import InputError
from dogerm.nano.arithmetic import answer_of
from dogerm.nano.corpus import GENERATORS, distinct_pairs
from dogerm.nano.model import Encoder, load_lm, sample
from dogerm.nano.pair import Pair
from dogerm.store import replacing


def write_pairs(domain: str, seed: int, n: int, out: Path, split: str = "test") -> None:
    """Write n different pairs of one split as JSON lines.

    Each line has prompt, chosen, rejected, domain and flaw (what is wrong with the
    rejected answer). No problem of the validation or test split is ever trained on.

    Raises:
        InputError: there is no such domain; n is below 1, or more than there are.
    """
    if domain not in GENERATORS:
        raise InputError(
            f"there is no domain {domain!r}; choose one of {', '.join(GENERATORS)}."
        )
    if n < 1:
        raise InputError(f"at least one pair must be asked for, got {n}.")
    write_lines(
        out, map(pair_row, distinct_pairs(domain, Random(f"pairs {seed}"), split, n))
    )


def pair_row(pair: Pair) -> dict[str, str]:
    """A pair as a row of a JSON lines file."""
    return {
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "domain": pair.domain,
        "flaw": pair.flaw,
    }


def held_out(each: int, seed: int = 0) -> list[dict[str, str]]:
    """That many test pairs of each domain, as rows."""
    return [
        pair_row(pair)
        for domain in GENERATORS
        for pair in distinct_pairs(domain, Random(f"pairs {seed}"), "test", each)
    ]


def write_candidates(
    family: Path,
    seed: int,
    n: int,
    out: Path,
    count: int = 16,
    temperature: float = 1.0,
    split: str = "test",
) -> None:
    """Write n math problems, each with count answers sampled from the family's base LM.

    Each line has prompt, responses, correct (one bool a response) and answer (the
    right number). A response is correct when the number it ends in is.
    """
    rng = Random(f"candidates {seed}")
    drawn = distinct_pairs("math", rng, split, n, by=lambda pair: pair.prompt)
    problems = {pair.prompt: pair.answer for pair in drawn}
    answers = sample_from(family / "base", list(problems), seed, count, temperature)
    rows = (
        {
            "prompt": prompt,
            "responses": responses,
            "correct": [answer_of(response) == answer for response in responses],
            "answer": answer,
        }
        for (prompt, answer), responses in zip(problems.items(), answers, strict=True)
    )
    write_lines(out, rows)


def sample_from(
    folder: Path, prompts: list[str], seed: int, count: int, temperature: float
) -> list[list[str]]:
    """count answers to each prompt by the language model in a folder."""
    lm = load_lm(folder).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(folder))
    return sample(lm, encoder, prompts, count, seed, temperature)


def write_lines(out: Path, rows: Iterable[dict]) -> None:
    """One JSON object a line; the file is replaced when all are written."""
    with replacing(out) as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
