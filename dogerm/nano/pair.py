"""What every generator of the corpus returns, and how problems are kept apart."""

import zlib
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pair:
    """One question with a right answer and one that has a single flaw.

    key names the problem itself (its numbers and structure), not its wording:
    two wordings of one problem always fall into the same split. answer is the
    right final number of a math problem, None elsewhere.
    """

    domain: str
    key: str
    prompt: str
    chosen: str
    rejected: str
    flaw: str
    answer: int | None = None


def split_of(key: str) -> str:
    """The split a problem belongs to, now and for every seed: 80% train, 10% each held out."""
    bucket = zlib.crc32(key.encode()) % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")
