"""The page. `serve` loads a family and opens it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dogerm.family import Family

# Before gradio is imported: it would look up hosts of its own otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def serve(
    family: Family | str | Path = "nano",
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    public: bool = False,
    load_in_8bit: bool = False,
    offline: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    block: bool = True,
):
    """Load the family and serve the page until interrupted; returns the running app.

    Args:
        family: one made already, a name in assets/families, or a TOML file.
        host, port: where to listen; None: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT,
            else 127.0.0.1:7860.
        share: a public link through Gradio's tunnel.
        public: for strangers: one family, and the limits PUBLIC in dogerm/ui/limits.py.
        offline: never ask the hub.
        block: wait until interrupted.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from starlette.middleware import Middleware

    from dogerm.engine import Engine
    from dogerm.family import Family
    from dogerm.ui.guard import MEGABYTE, RequestSize
    from dogerm.ui.limits import LOCAL, PUBLIC
    from dogerm.ui.page import build
    from dogerm.ui.studio import Studio
    from dogerm.ui.theme import CSS, HEAD, theme

    made = isinstance(family, Family)
    name = family.name if made else str(family)
    family = family if made else Family.load(family)
    engine = Engine.load(family, device, dtype, load_in_8bit)
    limits = PUBLIC if public else LOCAL
    app = build(Studio(engine, name), public).queue(max_size=limits.waiting)
    app.launch(
        server_name=host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        server_port=port or int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        share=share,
        theme=theme(),
        css=CSS,
        head=HEAD,
        footer_links=["api"],
        ssr_mode=False,
        run_history=False,
        max_file_size=limits.megabytes * MEGABYTE,
        app_kwargs={
            "middleware": [Middleware(RequestSize, megabytes=limits.megabytes)]
        },
        show_error=True,
        quiet=not block,
        prevent_thread_lock=not block,
    )
    return app
