"""A page for strangers: its limits, and the files it must not read."""

import json
import re

import httpx
import pytest
from browsing import ANSWERS, PROMPT
from calling import endpoint, heard, press
from conftest import family_file, free_port
from gradio_client import Client
from gradio_client.exceptions import AppError

from dogerm.ui.limits import LOCAL, PUBLIC

MIX = {"math": 1}
FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.jsonl"}


@pytest.fixture(scope="module")
def url(folders, tmp_path_factory):
    """As conftest's, for strangers."""
    from dogerm.ui import serve

    file, port = family_file(folders, tmp_path_factory.mktemp("family")), free_port()
    app = serve(file, port=port, device="cpu", public=True, block=False)
    yield f"http://127.0.0.1:{port}/"
    app.close()


PAIR = {"prompt": PROMPT, "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("endpoint", "arguments", "words"),
    [
        ("/score", (PROMPT, ["x" * 20_000, "b"], 0.5, MIX), "this page takes 20,000"),
        ("/score", ("x" * 20_000, ["a", "b"], 0.5, MIX), "this page takes 20,000"),
        ("/score", (PROMPT, ANSWERS * 3, 0.5, MIX), "2 to 8 responses, got 9"),
        ("/score", (PROMPT, "ab", 0.5, MIX), "Responses must be a list"),
        ("/curve", (PROMPT, ["x" * 20_000, "b"], MIX), "this page takes 20,000"),
        ("/curve", (PROMPT, ANSWERS * 3, MIX), "2 to 8 responses, got 9"),
        ("/curve", (PROMPT, ANSWERS, MIX, [0.1] * 52), "has 52 λs; this page takes 51"),
        ("/pairs", ([PAIR] * 2001, MIX), "2,001 pairs; this page takes 2,000"),
        ("/pairs", ([PAIR], MIX, [0.1] * 52), "has 52 λs; this page takes 51"),
    ],
)
def test_an_endpoint_holds_the_limits_for_strangers(url, endpoint, arguments, words):
    with pytest.raises(AppError, match=re.escape(words)):
        Client(url, verbose=False).predict(*arguments, api_name=endpoint)


@pytest.mark.parametrize("button", ["score", "map-draw", "pairs-run", "tokens-again"])
def test_the_pages_own_events_hold_them_too(url, button):
    answer = press(url, button, {"instruction": "x" * 20_001})
    assert "this page takes 20,000" in answer["output"]["error"]


def test_strangers_choose_no_model_and_save_no_weights(url):
    config = httpx.get(f"{url}config").json()
    ids = {part["props"].get("elem_id") for part in config["components"]}
    assert "lam" in ids and not ids & {"model", "model-family", "apply"}
    api = httpx.get(f"{url}gradio_api/info").json()["named_endpoints"]
    assert set(api) == {"/score", "/curve", "/pairs", "/merge_report"}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "README.md", "../../etc/passwd", "https://example.com/a"]
)
def test_no_path_or_address_of_a_visitor_is_read(url, path, monkeypatch):
    from gradio import processing_utils

    asked = []

    async def download(address, cache_dir):
        asked.append(address)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", download)
    file = FILE | {"path": path}
    # Where a file is wanted, and where a number is.
    for button, widget in (("pairs-run", "pairs-file"), ("score", "lam")):
        answer = press(url, button, {widget: file})
        assert "none is read by its path" in answer["output"]["error"]
    values = [PROMPT, ANSWERS, 0.5, {"math": file}, "linear", None]
    *_, answer = heard(url, endpoint(url, "score"), values)
    assert "none is read by its path" in answer["output"]["error"]
    assert not asked


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "assets/families/nano.toml"])
def test_no_file_of_this_machine_is_served(url, path):
    answer = httpx.get(f"{url}gradio_api/file={path}")
    assert answer.status_code in (403, 404)


def test_the_folders_of_this_machine_are_not_named(url, folders):
    client = Client(url, verbose=False)
    found = client.predict(MIX, 0.5, api_name="/merge_report")
    report = client.predict([PAIR], MIX, [0.5], api_name="/pairs")
    for answer in (found, report):
        assert answer["family"]["rm"] == "rm"
    saved = press(url, "export-json", {})
    assert saved["success"]
    for answer in (found, report, saved):
        assert str(folders["rm"].parent) not in json.dumps(answer)


def test_a_request_too_large_is_one_sentence_and_leaves_nothing(url):
    size = 200 << 20
    chunk = b"x" * (1 << 20)

    def body():
        yield from [chunk] * 200

    answer = httpx.post(
        f"{url}gradio_api/upload",
        content=body(),
        headers={
            "content-type": "multipart/form-data; boundary=b",
            "content-length": str(size),
        },
        timeout=60,
    )
    assert answer.status_code == 413
    assert answer.text == "This has 200 MB, and the page takes up to 4 MB at a time."
    assert httpx.get(url).status_code == 200


def test_a_request_of_unstated_length_is_cut_off(url):
    def body():
        yield b"--b\r\n"
        for _ in range(20):
            yield b"x" * 1_000_000

    try:
        answer = httpx.post(
            f"{url}gradio_api/upload",
            content=body(),
            headers={"content-type": "multipart/form-data; boundary=b"},
            timeout=60,
        )
        assert answer.status_code >= 400
    except httpx.TransportError:
        pass
    assert httpx.get(url).status_code == 200


def test_limits_for_strangers_are_the_tighter_ones():
    for name in ("characters", "pairs", "lams", "megabytes"):
        assert 0 < getattr(PUBLIC, name) < getattr(LOCAL, name)
    assert PUBLIC.waiting and PUBLIC.kept_seconds and not PUBLIC.named_here
