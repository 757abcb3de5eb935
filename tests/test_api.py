"""The endpoints pairs and merge_report against the library, and the fold that shows them."""

import hashlib
import re

import pytest
from browsing import PROMPT
from conftest import stored
from gradio_client import Client
from gradio_client.exceptions import AppError

from dogerm.benchmarks.pairs import metrics
from dogerm.recipe import Recipe
from dogerm.rows import row_of
from dogerm.scoring import score

MIX = {"math": 1, "code": 1}
ROWS = [
    {"prompt": PROMPT, "chosen": "Seven is.", "rejected": "Nine.", "domain": "math"},
    {"prompt": "Sort it.", "chosen": "sorted(x)", "rejected": "x.sort", "domain": "b"},
    {"prompt": PROMPT, "chosen": "Five", "rejected": "Eight, as 8", "domain": "math"},
]
LONG = {"prompt": "a", "chosen": "x" * 400, "rejected": "b"}


@pytest.fixture
def client(url) -> Client:
    return Client(url, verbose=False)


def test_pairs_gives_the_librarys_report(client, engine):
    report = client.predict([*ROWS, LONG], MIX, [0, 0.5], api_name="/pairs")
    assert report["benchmark"] == "pairs" and report["settings"]["skipped"] == 1
    assert list(report["skipped"]) == ["row 4"]
    rows = [row_of(row, "here") for row in ROWS]
    groups = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in ROWS]
    for found, lam in zip(report["recipes"], (0, 0.5), strict=True):
        assert found["lam"] == lam and found["shares"] == {"math": 0.5, "code": 0.5}
        wanted = metrics(rows, score(engine, Recipe(lam, MIX), groups))
        assert list(found["metrics"]) == ["math", "b", "Overall"]
        for group, metric in wanted.items():
            assert found["metrics"][group]["accuracy"] == metric.accuracy
            assert found["metrics"][group]["n"] == metric.n
            assert found["metrics"][group]["low"] == pytest.approx(metric.low)


def test_pairs_says_how_far_it_is(client):
    job = client.submit(ROWS, MIX, [0, 0.5, 1], api_name="/pairs")
    job.result()
    *progress, report = job.outputs()
    assert progress[-1] == {"done": 18, "total": 18}
    assert len(report["recipes"]) == 3


@pytest.mark.parametrize(
    ("rows", "lams", "words"),
    [
        ([], None, "rows is empty"),
        ("a,b", None, "Rows must be a list"),
        ([5], None, "Row 1: this should be a mapping"),
        ([{"prompt": "p", "good": "x"}], None, "Row 1: responses, or chosen and"),
        ([{"question": "p"}], None, "the keys are question. A row needs prompt"),
        ([{"prompt": "p", "responses": ["a", "b"]}], None, "needs chosen and rejected"),
        (ROWS, [], "lams is empty"),
        (ROWS, [0.5, 2], "between 0 and 1, got 2"),
    ],
)
def test_pairs_says_what_is_wrong_and_where(client, rows, lams, words):
    with pytest.raises(AppError, match="(?i)" + re.escape(words)):
        client.predict(rows, MIX, lams, api_name="/pairs")


def test_merge_report_says_what_the_merge_did(client, engine, folders):
    found = client.predict({"math": 1, "code": 3}, 0.4, api_name="/merge_report")
    assert found["recipe"] == {
        "lam": 0.4,
        "shares": {"math": 0.25, "code": 0.75},
        "method": "linear",
    }
    assert found["coefficients"] == pytest.approx({"rm": 0.6, "math": 0.1, "code": 0.3})
    parameters = set(stored(folders["rm"]))
    assert found["kept"] == ["score.weight"]
    assert {*found["merged"], *found["kept"]} == parameters
    assert found["appended"] == ["[PAD]"]
    assert found["rows"] == len(engine.tokenizer) + 1
    assert found["models"]["rm"]["source"] == str(folders["rm"])
    assert set(found["models"]) == {"rm", "math", "code"}
    (file,) = folders["plain"].glob("*.safetensors")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["models"]["math"]["files"][file.name] == digest


def test_every_endpoint_names_its_arguments_types_and_meaning(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    for name, endpoint in api.items():
        assert len(endpoint["description"]) > 40, name
        for parameter in endpoint["parameters"]:
            assert parameter["type"], (name, parameter)
        assert endpoint["returns"][0]["python_type"]["type"] == "dict(str, Any)"
    rows, _, lams, *_ = api["/pairs"]["parameters"]
    assert rows["python_type"]["type"] == "list[dict(str, Any)]"
    assert lams["parameter_has_default"]


def test_the_fold_shows_lines_that_work_as_they_stand(visit, url):
    page = visit()
    page.click("#api button")
    page.wait_for_function(
        "document.querySelector('#api-calls pre')?.textContent.includes('http')"
    )
    connect, *calls = page.locator("#api-calls pre").all_text_contents()
    assert f'Client("{url.rstrip("/")}")' in connect
    assert len(calls) == 4
    names = {}
    exec(connect, names)  # noqa: S102
    for call in calls:
        assert isinstance(eval(call, names), dict)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
