"""The page. `serve` loads a family and opens it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dogerm.errors import ServeError

if TYPE_CHECKING:
    from dogerm.family import Family
    from dogerm.quantised import Quantised

# Before gradio is imported: it would look up hosts of its own otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def serve(
    family: Family | str | Path = "nano",
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    public: bool = False,
    quantised: Quantised | None = None,
    offline: bool = False,
    mcp: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    reports: str | Path | None = None,
    block: bool = True,
):
    """Load the family and serve the page until interrupted; returns the running app.

    Args:
        family: one made already, a name in assets/families, or a TOML file.
        host, port: where to listen; None: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT,
            else 127.0.0.1:7860.
        share: a public link through Gradio's tunnel.
        public: for strangers: one family, and the limits PUBLIC in dogerm/ui/limits.py.
        offline: ask no host, the hub least of all; what is not on this machine is an error.
        mcp: serve the endpoints as tools for agents too, at /gradio_api/mcp/.
        reports: the folder of stored reports; None: DOGERM_REPORTS, else ./reports.
        block: wait until interrupted.

    Raises:
        ServeError: it cannot be served as it was asked for.
        DogermError: as `Family.load` and `Engine.load`.
    """
    if offline:
        if share:
            raise ServeError(
                "a public link goes through a host outside; leave out --share or --offline."
            )
        _go_offline()
    if mcp and importlib.util.find_spec("mcp") is None:
        raise ServeError(
            "MCP needs a package that is not installed: pip install 'gradio[mcp]'."
        )
    spaces = _spaces()  # before torch, which it changes
    if reports:
        os.environ["DOGERM_REPORTS"] = str(reports)
    from starlette.middleware import Middleware

    from dogerm.engine import Engine
    from dogerm.family import Family
    from dogerm.ui.guard import MEGABYTE, RequestSize
    from dogerm.ui.limits import LOCAL, PUBLIC
    from dogerm.ui.page import build
    from dogerm.ui.studio import Studio
    from dogerm.ui.theme import CSS, HEAD, theme
    from dogerm.ui.zero import on_gpu

    made = isinstance(family, Family)
    name = family.name if made else str(family)
    family = family if made else Family.load(family)
    # What a ZeroGPU worker does not find on the GPU would have to be moved at every call.
    keep = "device" if os.environ.get("SPACES_ZERO_GPU") else None
    engine = Engine.load(family, device, dtype, quantised, keep=keep)
    if block:
        for warning in engine.fit.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
    limits = PUBLIC if public else LOCAL
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    local = host in ("127.0.0.1", "localhost", "::1") and not (share or public)
    studio = Studio(engine, name, local)
    app = build(studio, public, mcp).queue(max_size=limits.waiting)
    if spaces:
        on_gpu(app, spaces)
    app.launch(
        server_name=host,
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
        mcp_server=mcp,
        show_error=True,
        quiet=not block,
        prevent_thread_lock=not block,
    )
    return app


def _go_offline() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    if hub := sys.modules.get("huggingface_hub.constants"):  # it read the environment
        hub.HF_HUB_OFFLINE = True


def _spaces() -> ModuleType | None:
    """The package of Hugging Face's Spaces, where it is there."""
    if "spaces" not in sys.modules:
        found = importlib.util.find_spec("spaces")
        if found is None or found.origin is None:  # or a folder that is called so
            return None
    return importlib.import_module("spaces")
