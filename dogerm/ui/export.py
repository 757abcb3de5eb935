"""Export: what is shown as numbers, as pictures, as one HTML file; recordings; the merged checkpoint."""

from __future__ import annotations

import base64
import gzip
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr

from dogerm.errors import InputError
from dogerm.export import Export, export
from dogerm.live import DTYPES
from dogerm.plan import size_text
from dogerm.provenance import made_on, without_cards
from dogerm.recording import read_text
from dogerm.standalone import of_take
from dogerm.ui.controls import Controls
from dogerm.ui.playground import QUIET, errors_for_people
from dogerm.ui.recordings import frame, read_file

# Neither the engine nor the long line: a checkpoint is written from files.
WRITING = {"concurrency_id": "export", "concurrency_limit": 1}
LARGEST_ZIP = 200_000_000  # bytes of weights; what is larger is written to a folder
SECONDS_BETWEEN = 0.2
STORED = "as stored"
PICTURES = ("PNG", "SVG")

SHELL = """
<section id="export">
  <p class="lead">The comparison above, to take away, with the recipe, the models and their
    files' SHA-256, the device, the precision and the date.</p>
  <p id="export-state" role="status" aria-live="polite"></p>
</section>"""
RECORDING = """
<p class="about"><b>Recording</b> <span id="recorded-count"></span> <span>Every whole curve of
  this session in one file. It is replayed without the model, marked with what it was
  recorded on.</span></p>"""
CHECKPOINT = """
<p class="about"><b>Merged checkpoint</b> <span>The merge that is set above, as an ordinary
  checkpoint that plain transformers loads.</span></p>"""


def build(controls: Controls, public: bool) -> None:
    studio = controls.studio
    with gr.Tab("Export", id="export"):
        gr.HTML(SHELL, padding=False)
        with gr.Row(elem_id="export-files", elem_classes="exports"):
            numbers = [_button(name) for name in ("JSON", "CSV")]
            pictures = [_button(name) for name in PICTURES]
            page = _button("HTML")
        gr.HTML(RECORDING, padding=False)
        with gr.Row(elem_id="export-recording", elem_classes="exports"):
            save = gr.Button("Save recording", elem_id="export-save", min_width=120)
            opening = gr.UploadButton(
                "Open a recording",
                file_types=[".json"],
                elem_id="export-open",
                min_width=120,
            )
        made = gr.JSON(visible="hidden", elem_id="export-made")
        packed = gr.JSON(visible="hidden", elem_id="export-packed")
        opened = gr.JSON(visible="hidden", elem_id="export-opened")
        shown = gr.Textbox(visible="hidden", elem_id="export-shown")
        if not public:
            _checkpoint(controls)

    def stamp() -> dict[str, Any]:
        with errors_for_people():
            models = without_cards(studio.files())
            return made_on(studio.engine).to_json() | {"models": models}

    def write_page(text: str, _: Any) -> dict[str, str]:
        """The page's own file of one curve, checked like anybody's, as packed HTML."""
        with errors_for_people():
            if not text:
                raise InputError(
                    "there is no whole curve yet. Press Score and wait for it."
                )
            (take,) = read_text(text, "the curve")
            whole = gzip.compress(of_take(take).encode("utf-8"), 6)
            return {"gzip": base64.b64encode(whole).decode("ascii")}

    def replay(path: str) -> list[dict[str, Any]]:
        with errors_for_people():
            return [frame(take) for take in read_file(path)]

    for name, button in zip(("json", "csv", "recording"), (*numbers, save)):
        button.click(stamp, None, made, **QUIET).success(
            None, [made], None, js=f"made => dogerm.exports.save('{name}', made)"
        )
    for name, button in zip(PICTURES, pictures):
        button.click(
            None, None, None, js=f"() => dogerm.exports.picture('{name.lower()}')"
        )
    page.click(stamp, None, made, **QUIET).success(
        write_page,
        [shown, made],
        packed,
        js="(_, made) => [dogerm.exports.shown(made), null]",
        **QUIET,
    ).success(None, [packed], None, js="packed => dogerm.exports.page(packed)")
    opening.upload(replay, opening, opened, **QUIET).success(
        None, [opened], None, js="frames => dogerm.recording.open(frames)"
    )


def _button(name: str) -> gr.Button:
    return gr.Button(name, elem_id=f"export-{name.lower()}", min_width=80)


def _checkpoint(controls: Controls) -> None:
    """The merged weights: to a folder of this machine for whoever sits at it, else as a zip."""
    studio = controls.studio
    gr.HTML(CHECKPOINT, padding=False)
    with gr.Row(elem_id="export-checkpoint", elem_classes="exports"):
        folder = gr.Textbox(
            label="Folder on this machine, new or empty",
            placeholder="~/…",
            visible=studio.local,
            elem_id="export-folder",
            min_width=220,
            scale=3,
        )
        dtype = gr.Dropdown(
            [STORED, *DTYPES], label="Precision", elem_id="export-dtype", min_width=120
        )
        write = gr.Button(
            "Write", visible=studio.local, elem_id="export-write", min_width=80
        )
        pack = gr.Button("Download .zip", elem_id="export-zip", min_width=110)
        stop = gr.Button("Stop", elem_id="export-stop", min_width=70)
    told = gr.JSON(visible="hidden", elem_id="export-told")
    file = gr.File(visible="hidden", elem_id="export-file")

    def write_folder(
        place: str | None, kind: str, *values: Any
    ) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            if not studio.local:
                raise InputError("this page writes to no folder of the server's.")
            if not (place or "").strip():
                raise InputError("name a folder: one that is not there yet, or empty.")
            out = Path(place.strip()).expanduser().absolute()
            yield from _written(controls, values, kind, out)

    def write_zip(kind: str, *values: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        with errors_for_people():
            if 4 * studio.engine.size > LARGEST_ZIP:
                raise InputError(
                    f"this model is larger than {size_text(LARGEST_ZIP)}. Write it to a "
                    "folder, with the command in the Recipe tab."
                )
            root = Path(tempfile.mkdtemp(prefix="dogerm-"))
            try:
                for step in _written(controls, values, kind, root / "merged"):
                    yield step, gr.skip()
                packed = shutil.make_archive(
                    str(root / "merged"), "zip", root, "merged"
                )
                yield {"packed": True}, packed
            finally:
                shutil.rmtree(root, ignore_errors=True)

    inputs = [dtype, *controls.inputs]
    writing = write.click(write_folder, [folder, *inputs], told, **QUIET, **WRITING)
    packing = pack.click(write_zip, inputs, [told, file], **QUIET, **WRITING)
    packing.success(None, [file], None, js="file => dogerm.exports.take(file)")
    told.change(None, [told], None, js="told => dogerm.exports.told(told)")
    stop.click(
        None,
        None,
        None,
        cancels=[writing, packing],
        js="() => dogerm.exports.told({stopped: true})",
    )


def _written(
    controls: Controls, values: tuple[Any, ...], kind: str, out: Path
) -> Iterator[dict[str, Any]]:
    """Bytes written so far, of how many; at the end what was written and what was kept."""
    recipe, family = controls.request(values).recipe, controls.studio.family
    dtype = None if kind == STORED else kind

    def work(advance: Callable[[int, int], None]) -> Export:
        return export(family, recipe, out, dtype, on_progress=advance)

    for step in _steps(work):
        if isinstance(step, Export):
            yield _report(step)
        else:
            done, total = step
            yield {"done": size_text(done), "total": size_text(total)}


def _report(written: Export) -> dict[str, Any]:
    return {
        "folder": str(written.folder),
        "size": size_text(written.nbytes),
        "files": len(written.files),
        "merged": len(written.merged),
        "kept": list(written.kept),
        "appended": list(written.appended),
        "tokens_added": written.tokens_added,
    }


class _Stopped(Exception):
    """Nobody waits for the work any more."""


def _steps(
    work: Callable[[Callable[[int, int], None]], Export],
) -> Iterator[tuple[int, int] | Export]:
    """The work in a thread of its own: how far it is, now and then, and at last its result.

    When the iterator is closed, as when a visitor stops it or has gone, the work ends at
    its next step.
    """
    said: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
    closed = threading.Event()

    def advance(done: int, total: int) -> None:
        if closed.is_set():
            raise _Stopped
        said.put((done, total))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work, advance)
        running.add_done_callback(lambda _: said.put(None))
        done, shown = 0, 0.0
        try:
            while (step := said.get()) is not None:
                done += step[0]
                if time.monotonic() - shown > SECONDS_BETWEEN or done == step[1]:
                    shown = time.monotonic()
                    yield done, step[1]
            yield running.result()
        finally:
            closed.set()
