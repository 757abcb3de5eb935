"""The texts that are compared: what each is called, and what can be scored at all."""

from __future__ import annotations

from dogerm.errors import InputError


def letter(index: int) -> str:
    """Name of a response for people: A, B, …, Z, then 27, 28, …"""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def check_text(text: str, who: str, may_be_empty: bool = False) -> None:
    """InputError, which calls the text `who`, unless it is text with something in it."""
    if not isinstance(text, str):
        raise InputError(f"{who} must be text, got {text!r:.80}.")
    if not may_be_empty and not text.strip():
        raise InputError(f"{who} is empty. Write something in it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{who} is not valid Unicode at character {error.start + 1}."
        ) from None
