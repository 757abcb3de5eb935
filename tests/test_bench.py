"""python -m dogerm bench: its files, and that no stop, kill or second process changes a byte of them."""

import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, Commands
from typer.testing import CliRunner

from dogerm.benchmarks import run as run_module
from dogerm.benchmarks.pairs import metrics
from dogerm.benchmarks.run import STORE
from dogerm.cli import app
from dogerm.recipe import Recipe
from dogerm.rows import read_rows
from dogerm.scoring import rewards, score
from dogerm.store import Store

KILLS = 20
ROWS, LAMS = 20, 11
REPORTS = ("report.json", "report.csv", "report.parquet", "report.html")
FILES = (*REPORTS, "rows.jsonl", "rows.parquet", "choices.json")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def pair(i: int) -> dict:
    return {
        "prompt": f"What is {i} + {i % 7}?",
        "chosen": f"It is {i + i % 7}." + " Really." * (i % 4),
        "rejected": f"I think {i}.",
        "domain": ("math", "code", HOSTILE)[i % 3],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair(i)) + "\n" for i in range(ROWS)))
    return file


@pytest.fixture(scope="module")
def source(folders) -> list[str]:
    lms = [f"--lm=math={folders['plain']}", f"--lm=code={folders['padded']}"]
    return [f"--rm={folders['rm']}", *lms, "--device=cpu", "--dtype=float32"]


@pytest.fixture(scope="module")
def arguments(data, source) -> list[str]:
    grid = ["--lam=0:1:0.1", "--share=math=1", "--batch-tokens=64"]
    return ["bench", "pairs", f"--data={data}", *source, *grid]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    result = run(*arguments, f"--out={out}")
    assert result.exit_code == 0, result.output
    return out


def assert_same(folder: Path, other: Path) -> None:
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_the_report_is_what_scoring_by_hand_gives(whole, data, engine):
    report = json.loads((whole / "report.json").read_text())
    assert list(report) == ["benchmark", "family", "settings", "recipes"]
    assert report["benchmark"] == "pairs" and len(report["recipes"]) == LAMS
    rows = read_rows(data)
    groups = [(row.prompt, row.responses) for row in rows]
    for point in (report["recipes"][0], report["recipes"][7]):
        assert list(point) == ["lam", "shares", "method", "metrics"]
        found = score(engine, Recipe(point["lam"], {"math": 1}), groups)
        for name, metric in metrics(rows, found).items():
            assert point["metrics"][name] == vars(metric)
    settings = report["settings"]
    assert settings["dtype"] == "float32" and settings["device"] == "cpu"
    assert re.fullmatch("[0-9a-f]{64}", settings["rows"]["sha256"])
    for name in ("rm", "math", "code"):
        assert "model.safetensors" in settings["models"][name]["files"]


def test_tables_say_the_same_as_the_report(whole, data):
    import pyarrow.parquet

    report = json.loads((whole / "report.json").read_text())
    flat = [
        (point["lam"], group, metric["accuracy"], metric["n"])
        for point in report["recipes"]
        for group, metric in point["metrics"].items()
    ]
    with (whole / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    found = [
        (float(x["lam"]), x["group"], float(x["accuracy"]), int(x["n"])) for x in lines
    ]
    assert found == flat
    table = pyarrow.parquet.read_table(whole / "report.parquet").to_pylist()
    assert [(x["lam"], x["group"], x["accuracy"], x["n"]) for x in table] == flat
    written = [json.loads(line) for line in (whole / "rows.jsonl").open()]
    assert [{k: row[k] for k in pair(0)} for row in written] == [
        pair(i) for i in range(ROWS)
    ]
    long = pyarrow.parquet.read_table(whole / "rows.parquet").to_pylist()
    assert [x["rewards"] for x in long] == [
        row["rewards"][recipe] for recipe in range(LAMS) for row in written
    ]
    assert all(x["right"] == (x["rewards"][0] > x["rewards"][1]) for x in long)


def test_the_best_lambda_is_named_an_oracle_when_it_is_chosen_on_the_reported_rows(
    whole, arguments, tmp_path
):
    report = json.loads((whole / "report.json").read_text())
    accuracies = [p["metrics"]["Overall"]["accuracy"] for p in report["recipes"]]
    chosen = json.loads((whole / "choices.json").read_text())
    overall = next(choice for choice in chosen if choice["group"] == "Overall")
    assert overall["rule"] == "oracle"
    assert overall["metrics"]["Overall"]["accuracy"] == max(accuracies)
    best = report["recipes"][accuracies.index(max(accuracies))]
    assert overall["recipe"]["lam"] == best["lam"]
    against, flips = overall["against_first"], overall["flips"]
    assert against["gained"] == len(flips["gained"])
    assert against["difference"] == pytest.approx(max(accuracies) - accuracies[0])

    split = run(*arguments, f"--out={tmp_path}", "--validation=0.5")
    assert split.exit_code == 0, split.output
    chosen = json.loads((tmp_path / "choices.json").read_text())
    overall = next(choice for choice in chosen if choice["group"] == "Overall")
    assert overall["rule"] == "validation"
    assert overall["chosen_on"] + overall["metrics"]["Overall"]["n"] == ROWS


def test_the_report_is_rebuilt_from_the_store_alone(whole, tmp_path):
    shutil.copy(whole / STORE, tmp_path)
    result = run("bench", "report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "linear λ=0.3 math=1" in result.stdout and "Overall" in result.stdout
    assert_same(tmp_path, whole)


def test_the_page_holds_no_markup_of_the_rows_and_asks_no_other_host(whole):
    text = (whole / "report.html").read_text()
    assert HOSTILE not in text and "<img src=x" not in text
    assert not re.search(
        r"""<(script|link|img|iframe)[^>]+(src|href)=["']?http""", text
    )
    assert "default-src 'none'" in text


def test_the_page_opens_in_a_browser_with_its_charts(whole):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: install it (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            timeout=180_000,
        )
        page = browser.new_page()
        page.set_default_timeout(180_000)  # a loaded machine takes its time
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(error))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else 0)
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((whole / "report.html").as_uri())
        page.wait_for_selector("#figure-0 .scatterlayer .trace")
        assert page.locator("#figure-0 .scatterlayer .trace").count() == 4
        assert "alert(1)" in page.locator("#figure-0 .legend").text_content()
        browser.close()
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_ctrl_c_says_how_to_go_on_and_going_on_gives_the_same_files(
    arguments, whole, tmp_path, monkeypatch
):
    left = iter([None] * 25)

    def interrupted(*own, **more):
        if next(left, "stop"):
            raise KeyboardInterrupt
        return rewards(*own, **more)

    monkeypatch.setattr(run_module, "rewards", interrupted)
    stopped = run(*arguments, f"--out={tmp_path}")
    assert stopped.exit_code == 130
    assert f"Stopped: 25 of {ROWS * LAMS} rows are scored and safe" in stopped.stderr
    assert "--resume" in stopped.stderr
    monkeypatch.undo()
    again = run(*arguments, f"--out={tmp_path}")
    assert again.exit_code == 1 and "Pass --resume" in again.stderr
    assert run(*arguments, f"--out={tmp_path}", "--resume").exit_code == 0
    assert_same(tmp_path, whole)


def test_a_run_that_was_stopped_reports_what_is_finished(
    arguments, tmp_path, monkeypatch
):
    left = iter([None] * int(2.2 * ROWS))

    def interrupted(*own, **more):
        if next(left, "stop"):
            raise KeyboardInterrupt
        return rewards(*own, **more)

    monkeypatch.setattr(run_module, "rewards", interrupted)
    run(*arguments, f"--out={tmp_path}")
    result = run("bench", "report", tmp_path)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [point["lam"] for point in report["recipes"]] == [0, 0.1]
    assert len(report["settings"]["unfinished"]) == 9
    assert "Not finished: linear λ=0.2 math=1" in result.stderr


def test_a_grid_over_mixes_scores_the_plain_reward_model_once(data, source, tmp_path):
    result = run(
        "bench", "pairs", f"--data={data}", *source, "--lam=0,0.5", "--mix=0.5",
        f"--out={tmp_path}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(point["lam"], point["shares"]) for point in report["recipes"]] == [
        (0, {"math": 1}),
        (0.5, {"math": 1}),
        (0.5, {"math": 0.5, "code": 0.5}),
        (0.5, {"code": 1}),
    ]


def test_what_cannot_be_done_is_said_in_a_line(arguments, whole, tmp_path):
    assert run("bench", "nothing", f"--out={tmp_path}").exit_code == 2
    for wrong, sentence in (
        (["bench", "report", tmp_path], "holds no results"),
        ([*arguments, f"--out={whole}"], "Pass --resume"),
        (
            [*arguments, f"--out={whole}", "--resume", "--lam=0,1"],
            "number of recipes is 11",
        ),
    ):
        result = run(*wrong)
        assert result.exit_code == 1
        assert sentence in result.stderr and result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    started = Commands(tmp_path_factory.mktemp("logs") / "log")
    yield started
    started.close()


def rewards_in(folder: Path, copy: Path) -> dict:
    """What a store holds, read from a copy: opening the store itself would tidy it up."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in folder.glob(f"{STORE}*"):
        shutil.copy(file, copy)
    if not (copy / STORE).exists():
        return {}
    with Store(copy / STORE) as store:
        return store.read() if store.begun else {}


def last_written(folder: Path) -> int:
    log = folder / f"{STORE}-wal"
    return log.stat().st_mtime_ns if log.exists() else 0


def test_twenty_kills_lose_nothing_repeat_nothing_and_change_no_byte(
    commands, arguments, whole, tmp_path
):
    chance = random.Random(4)
    started = time.monotonic()
    assert commands.run(*arguments, f"--out={tmp_path / 'timed'}") == 0
    seconds = time.monotonic() - started
    assert_same(tmp_path / "timed", whole)
    kills, round_, folder, known = 0, 0, tmp_path / "0", {}
    while kills < KILLS:
        pid = commands.start(*arguments, f"--out={folder}", "--resume")
        if kills % 4 == 0:  # anywhere, while it starts too
            time.sleep(chance.uniform(0, seconds / 2))
        else:  # while it scores and writes
            before, deadline = last_written(folder), time.monotonic() + 60
            while last_written(folder) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, seconds / 20))
        os.kill(pid, signal.SIGKILL)
        if commands.wait(pid) == 0:  # it was done before
            assert_same(folder, whole)
            round_ += 1
            folder, known = tmp_path / str(round_), {}
            continue
        kills += 1
        found = rewards_in(folder, tmp_path / "copy")
        assert known.items() <= found.items()
        known = found
    assert known
    assert commands.run(*arguments, f"--out={folder}", "--resume") == 0
    with Store(folder / STORE) as store:
        assert known.items() <= store.read().items() and store.count == ROWS * LAMS
    assert_same(folder, whole)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_processes_that_were_killed_leave_their_parts_to_fewer(
    commands, arguments, whole, tmp_path
):
    out = [f"--out={tmp_path / 'run'}", "--resume"]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    pids = [
        commands.start(*arguments, *out, RANK=str(rank), LOCAL_RANK=str(rank), **world)
        for rank in range(2)
    ]
    part = tmp_path / "run" / "rewards.part-1.sqlite"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        logs = [tmp_path / "run" / f"{name}-wal" for name in (STORE, part.name)]
        if all(log.exists() and log.stat().st_size > 100_000 for log in logs):
            break
        time.sleep(0.005)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [commands.wait(pid) for pid in pids] == [-signal.SIGKILL] * 2
    assert part.exists()
    assert commands.run(*arguments, *out) == 0
    assert not part.exists()
    assert_same(tmp_path / "run", whole)


def test_what_stops_all_processes_is_said_by_the_first_alone(
    commands, arguments, whole, tmp_path
):
    out = f"--out={tmp_path / 'run'}"
    for wrong, code, words in (
        ([out, "--ns=x"], 2, "--ns is like"),
        ([out, "--share=law=1"], 1, "no domain LM 'law'"),
        ([out, f"--data={tmp_path / 'none.jsonl'}"], 1, "cannot be read"),
        ([f"--out={whole}"], 1, "Pass --resume"),
    ):
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        world["MASTER_PORT"] = free_port()
        pids = [
            commands.start(
                *arguments, *wrong, RANK=str(rank), LOCAL_RANK=str(rank), **world
            )
            for rank in range(2)
        ]
        assert [commands.wait(pid) for pid in pids] == [code] * 2, wrong
        first, second = (Path(f"{commands.log}{n}").read_text() for n in range(2))
        assert words in first and first.count("rror") == 1, (wrong, first)
        assert second == "", (wrong, second)


def test_two_machines_with_folders_of_their_own_need_the_rows_on_the_first_alone(
    commands, arguments, whole, tmp_path
):
    world = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    world["MASTER_PORT"] = free_port()
    elsewhere = [f"--data={tmp_path / 'not here.jsonl'}", f"--out={tmp_path / 'b'}"]
    pids = [
        commands.start(*arguments, *own, RANK=str(rank), **world)
        for rank, own in enumerate([[f"--out={tmp_path / 'a'}"], elsewhere])
    ]
    assert [commands.wait(pid) for pid in pids] == [0, 0]
    assert_same(tmp_path / "a", whole)
    assert list((tmp_path / "b").iterdir()) == []


def test_two_processes_of_accelerate_give_the_report_of_one(arguments, whole, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += [
        "--num_processes=2",
        "--num_machines=1",
        f"--main_process_port={free_port()}",
    ]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "-m", "dogerm"]
    found = subprocess.run(
        [*launch, *arguments, f"--out={tmp_path}"],
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr.count(f"Scored {ROWS} rows") == 1
    assert_same(tmp_path, whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*FILES, STORE])
