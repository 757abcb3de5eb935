"""ZeroGPU: a Space whose GPU is there only while a call runs, in a process of its own."""

from __future__ import annotations

from types import ModuleType

import gradio as gr

from dogerm.ui.playground import ENGINE, LONG

# How long a call may hold the GPU, by the line that it waits in.
SECONDS = {ENGINE["concurrency_id"]: 60, LONG["concurrency_id"]: 120}


def on_gpu(page: gr.Blocks, spaces: ModuleType) -> None:
    """Run every event that reaches the engine under `spaces.GPU`.

    A call is then made in a fork of this process, which has the models as they were
    loaded here; what it merges ends with it. Nothing else is needed: a call carries its
    whole recipe, and merges and scores its whole λ grid itself. Where a Space has no
    ZeroGPU the decorator does nothing.
    """
    for event in page.fns.values():
        if event.fn and event.concurrency_id in SECONDS:
            lend = spaces.GPU(duration=SECONDS[event.concurrency_id])
            event.fn = lend(event.fn)
