"""Calls of a page's events as a browser makes them, with any values."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import cache

import httpx

PATIENCE = 120  # seconds; a busy machine is no fault of the page


def press(url: str, button: str, given: dict[str, object], kind: str = "click") -> dict:
    """What a widget's event answers at last when these widgets have these values."""
    config = client().get(f"{url}config").json()
    parts = {part["id"]: part["props"] for part in config["components"]}
    event = next(
        event
        for event in config["dependencies"]
        for part, own in event["targets"]
        if own == kind and parts[part].get("elem_id") == button
    )
    values = [
        given.get(parts[part].get("elem_id"), parts[part].get("value"))
        for part in event["inputs"]
    ]
    *_, last = heard(url, event["id"], values)
    return last


def endpoint(url: str, name: str) -> int:
    """The event that an endpoint's name stands for."""
    config = client().get(f"{url}config").json()
    return next(e["id"] for e in config["dependencies"] if e["api_name"] == name)


def heard(url: str, event: int, values: list) -> Iterator[dict]:
    """The messages of an event until it is done; closing this ends the visit."""
    session = uuid.uuid4().hex
    body = {"fn_index": event, "data": values, "session_hash": session}
    client().post(f"{url}gradio_api/queue/join", json=body).raise_for_status()
    address = f"{url}gradio_api/queue/data?session_hash={session}"
    with client().stream("GET", address) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message:
                yield message
            if message.get("msg") == "process_completed":
                return


def leave_after(url: str, event: int, values: list, message: str) -> None:
    """A visitor who is gone, without a word, once a message of that kind came."""
    with closing(heard(url, event, values)) as messages:
        next(one for one in messages if one["msg"] == message)


@cache
def client() -> httpx.Client:
    """One for all calls: each made anew would read every certificate of the system."""
    return httpx.Client(timeout=PATIENCE)
