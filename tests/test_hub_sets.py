"""RewardBench and RewardBench 2 as the hub's own library fetches them, from a hub on this machine."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.rewardbench import COUNTS
from dogerm.errors import InputError

SHA, OLD = "1" * 40, "2" * 40
SET, SET_2 = "allenai/reward-bench", "allenai/reward-bench-2"


def pairs(counts=COUNTS) -> list[dict]:
    """Rows in the layout of the `filtered` split; ids run through all subsets."""
    subsets = [subset for subset, n in counts.items() for _ in range(n)]
    models = {"chosen_model": "human", "rejected_model": "m"}
    row = models | {"prompt": "p?", "chosen": "yes", "rejected": ""}
    return [row | {"subset": subset, "id": i} for i, subset in enumerate(subsets)]


def fours() -> list[dict]:
    """Rows in the layout of RewardBench 2's `test` split."""

    def row(id, subset, right, wrong):
        more = {"num_correct": len(right), "num_incorrect": len(wrong), "models": ["m"]}
        more |= {"total_completions": 4, "additional_metadata": {"category": None}}
        texts = {"prompt": "p?", "chosen": right, "rejected": wrong}
        return {"id": id, "subset": subset} | texts | more

    subsets = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    rows = [row(str(i), s, ["a"], ["b", "c", "d"]) for i, s in enumerate(subsets)]
    rows.append(row("ref:0", "Ties", ["a"], ["b"]))
    return [*rows, row("tied:0", "Ties", ["a", "b"], ["c", "d"])]


def shards(name: str, rows: list[dict], count: int) -> dict[str, bytes]:
    found = {}
    for place in range(count):
        own = pyarrow.Table.from_pylist(rows[place::count])
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(own, sink)
        file = f"data/{name}-{place:05}-of-{count:05}.parquet"
        found[file] = sink.getvalue().to_pybytes()
    return found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Answers as the hub does: which commit, which files, the files. `asked` is what it was asked."""
    sets, asked = {}, []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            api, _, rest = self.path.partition("/datasets/")
            parts = rest.partition("?")[0].split("/")
            files = sets.get("/".join(parts[:2]))
            if files is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            commit = {"main": SHA, "old": OLD}.get(parts[3], parts[3])
            if commit not in (SHA, OLD):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if not api:
                content = files["/".join(parts[4:])]
                tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
                return self.answer(200, content, tag | {"X-Repo-Commit": commit})
            tree = [
                {"type": "file", "path": path, "size": len(own), "oid": "0" * 40}
                for path, own in files.items()
            ]
            info = {"id": "/".join(parts[:2]), "sha": commit, "siblings": []}
            found = tree if parts[2] == "tree" else info
            return self.answer(200, json.dumps(found).encode(), {})

        do_HEAD = do_GET

        def answer(self, status, content, headers):
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    server.sets, server.asked = sets, asked
    yield server
    server.shutdown()
    server.server_close()


def read(name: str, **settings):
    return BENCHMARKS[name].read(Settings(**settings))


def test_rewardbench_is_fetched_whole_and_only_its_filtered_split(hub):
    raw = {"data/raw-00000-of-00001.parquet": b"not wanted", "README.md": b"#"}
    hub.sets[SET] = shards("filtered", pairs(), 2) | raw
    found = read("rewardbench")
    assert len(found.rows) == sum(COUNTS.values()) == 2985
    for subset, count in COUNTS.items():
        assert sum(row.data["subset"] == subset for row in found.rows) == count
    assert len({row.id for row in found.rows}) == 2985 and not found.left_out
    assert found.source == {"hub": SET, "revision": SHA}
    assert not any("raw-" in path or "README" in path for path in hub.asked)
    assert found.rows[0].may_be_empty and found.rows[0].responses == ("yes", "")


def test_what_was_fetched_is_there_without_network_and_a_revision_is_its_own(
    hub, monkeypatch
):
    hub.sets[SET] = shards("filtered", pairs(), 1)
    assert read("rewardbench", revision="old").source["revision"] == OLD
    first = read("rewardbench")
    hub.shutdown()
    hub.server_close()
    assert read("rewardbench").rows == first.rows  # the hub does not answer
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = read("rewardbench")
    assert (again.rows, again.source) == (first.rows, first.source)
    with pytest.raises(InputError, match=f"{SET}-2 could not be had.*--data FILE"):
        read("rewardbench2")


def test_rewardbench_2_is_fetched_with_its_lists_of_answers(hub):
    hub.sets[SET_2] = shards("test", fours(), 2)
    found = read("rewardbench2")
    assert len(found.rows) == 7 and found.source["hub"] == SET_2
    tied = next(row for row in found.rows if row.id == "Ties/tied:0")
    assert tied.responses == ("a", "b", "c", "d") and tied.data["num_correct"] == 2


def test_a_set_that_is_not_whole_is_refused_or_said(hub):
    counts = COUNTS | {"hep-go": 163, "math-prm": 448}
    hub.sets[SET] = shards("filtered", pairs(counts), 1)
    with pytest.raises(InputError, match="hep-go has 163 rows, not 164.*--revision"):
        read("rewardbench")
    found = read("rewardbench", bad_rows="skip")
    assert len(found.rows) == 2985
    assert list(found.left_out) == ["subset math-prm", "subset hep-go"]


def test_what_the_hub_does_not_have_is_said_in_a_sentence(hub):
    def said(**settings) -> str:
        with pytest.raises(InputError) as caught:
            read("rewardbench", **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "allenai/reward-bench could not be had" in said()
    hub.sets[SET] = {"README.md": b"#"}
    assert "has no data/filtered-*.parquet at this revision" in said()
    hub.sets[SET] = shards("filtered", pairs(), 1)
    assert "--data FILE" in said(revision="nope")
    hub.sets[SET] = {"data/filtered-00000-of-00001.parquet": b"<html>"}
    assert "is not a Parquet file" in said(revision="old")
