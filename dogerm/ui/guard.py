"""What holds for every request to the page: it names no file, is not too large, may be brief."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio.utils import get_upload_folder, is_in_or_equal
from gradio_client.utils import traverse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEGABYTE = 1 << 20
OVERHEAD = 100_000  # bytes of a request beside the file in it


class Page(gr.Blocks):
    """Blocks that read no file but those that were uploaded to them.

    Gradio itself refuses a path outside of its upload folder, naming it, but it would
    fetch an address in place of one, in any value of any event.
    """

    async def preprocess_data(
        self,
        block_fn: Any,
        inputs: list[Any],
        state: Any,
        explicit_call: bool = False,
    ) -> list[Any]:
        for widget, value in zip(block_fn.inputs, inputs):
            _check_files(value, may_be=isinstance(widget, gr.File | gr.UploadButton))
        left_out = block_fn.inputs[len(inputs) :]
        if all(isinstance(widget, Api) for widget in left_out):
            # gradio_client fills in defaults itself; a plain HTTP call need not.
            inputs = [*inputs, *(widget.value for widget in left_out)]
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


class RequestSize:
    """Answers a request of more bytes than `megabytes` with one sentence (413).

    What comes is read to its end and thrown away, so that the sender gets to read the
    sentence; nothing of it is kept in memory or on disk.
    """

    def __init__(self, app: ASGIApp, megabytes: int):
        self.app, self.megabytes = app, megabytes
        self.most = megabytes * MEGABYTE + OVERHEAD

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) <= self.most:
            return await self.app(scope, self._counted(receive), send)
        while (message := await receive())["type"] == "http.request":
            if not message.get("more_body"):
                break
        await self._refuse(int(length), send)

    def _counted(self, receive: Receive) -> Receive:
        """The same, cut off where a request without a stated length is over the limit."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > self.most else message

        return counted

    async def _refuse(self, length: int, send: Send) -> None:
        sentence = (
            f"This has {length / MEGABYTE:,.0f} MB, and the page takes up to "
            f"{self.megabytes} MB at a time."
        )
        body = sentence.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _check_files(value: Any, may_be: bool) -> None:
    """gr.Error for a file where none is wanted, or for one that was not uploaded."""
    found: list[dict[str, Any]] = []
    traverse(value, lambda file: found.append(file) or file, _is_file)
    for file in found:
        if not may_be or not is_in_or_equal(file["path"], get_upload_folder()):
            raise gr.Error(
                "A file is uploaded here; none is read by its path or address.",
                print_exception=False,
            )


def _is_file(value: Any) -> bool:
    """Whether Gradio would take the value for a file, wherever it stands."""
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return False
    meta = value.get("meta")
    return isinstance(meta, dict) and meta.get("_type") == "gradio.FileData"
