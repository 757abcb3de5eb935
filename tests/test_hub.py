"""The hub is asked politely, and every way it can refuse is said in one sentence."""

import errno
import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import are_progress_bars_disabled

from dogerm import hub
from dogerm.checkpoint import Checkpoint
from dogerm.cli.terminal import quieten
from dogerm.errors import CheckpointError

SHA = "0123456789abcdef0123456789abcdef01234567"
PAGE = "https://huggingface.co/org/name"
LOG_IN = "`hf auth login`"
FILES = {
    "README.md": 9_000,
    "chat_template.jinja": 400,
    "config.json": 800,
    "consolidated.safetensors": 26_000_000_000,
    "merges.txt": 1_700_000,
    "model-00001-of-00002.safetensors": 8_000_000_000,
    "model-00002-of-00002.safetensors": 5_000_000_000,
    "model.safetensors.index.json": 24_000,
    "modeling_own.py": 40_000,
    "name-q4.gguf": 4_000_000_000,
    "optimizer.pt": 50_000_000_000,
    "original/params.json": 100,
    "original/model.safetensors": 13_000_000_000,
    "pytorch_model-00001-of-00001.bin": 13_000_000_000,
    "pytorch_model.bin.index.json": 24_000,
    "tokenizer.json": 3_600_000,
    "tokenizer.model": 500_000,
    "training_args.bin": 5_000,
}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def lay(cache: Path, files: dict[str, str]) -> Path:
    """A copy of org/name's main branch in the cache, as the hub's library lays it out."""
    folder = cache / "models--org--name" / "snapshots" / SHA
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    ref = cache / "models--org--name" / "refs" / "main"
    ref.parent.mkdir()
    ref.write_text(SHA)
    return folder


@pytest.fixture
def there(cache, monkeypatch) -> SimpleNamespace:
    """A hub with one repository: what it holds, how much room there is, what was fetched."""
    state = SimpleNamespace(files=FILES, free=10**12, fetched=None, error=None)

    def model_info(self, repository, **options):
        assert options["files_metadata"] and options["timeout"]
        if state.error:
            raise state.error
        names = state.files.items()
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in names]
        return SimpleNamespace(siblings=siblings, sha=SHA)

    def snapshot_download(repository, **options):
        state.fetched = repository, options["revision"], options["allow_patterns"]
        state.progress = not are_progress_bars_disabled()
        return str(cache)

    def disk_usage(folder):
        assert folder.exists()
        return SimpleNamespace(free=state.free)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    return state


def refusal(kind: type, status: int) -> Exception:
    """The library's own exception, with an answer of that status."""
    http = importlib.import_module(errors.Response.__module__.partition(".")[0])
    request = http.Request("GET", "https://huggingface.co/api/models/org/name")
    return kind("no", response=http.Response(status, request=request))


def given_up(cause: Exception) -> Exception:
    """How the library says that a file could be had neither from the hub nor its cache."""
    error = errors.LocalEntryNotFoundError("no")
    error.__cause__ = cause
    return error


def connection_error() -> Exception:
    http = importlib.import_module(errors.Response.__module__.partition(".")[0])
    return http.ConnectError("[Errno -2] Name or service not known")


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert hub.located(str(tmp_path), "math") == tmp_path


@pytest.mark.parametrize(
    "source", ["./nope", "/nope/nope", "nope", "a/b/c", "~/nope/x"]
)
def test_a_path_is_never_looked_up_on_the_hub(source, there):
    with pytest.raises(CheckpointError, match=f"math: there is no folder {source}"):
        hub.located(source, "math")
    assert there.fetched is None


def test_one_copy_of_the_weights_is_fetched_and_never_code(there, caplog):
    hub.located("org/name@v1.0", "math")
    repository, revision, files = there.fetched
    assert (repository, revision) == ("org/name", "v1.0")
    assert sorted(files) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
        "tokenizer.model",
    ]
    said = caplog.messages[-1]
    assert said.startswith(
        "math: downloading 13.0 GB of org/name; 1000.0 GB are free in"
    )


@pytest.mark.parametrize(
    ("there_are", "wanted"),
    [
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], 2),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], 1),
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], 1),
        (["adapter_model.bin", "adapter_config.json"], 2),
        (["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"], 2),
        (["model.safetensors", "value_head.bin", "value_head.safetensors"], 2),
        (["x.py", "x.gguf", "flax_model.msgpack", "tf_model.h5", "rng_state.pth"], 0),
    ],
)
def test_which_files_make_up_a_checkpoint(there_are, wanted):
    assert hub.needed(there_are) == hub.needed(reversed(there_are))
    assert len(hub.needed(there_are)) == wanted


def test_what_is_in_the_cache_need_not_fit_on_the_disk(there, cache, caplog):
    lay(cache, {"model-00001-of-00002.safetensors": "", "config.json": "{}"})
    there.free = 5_100_000_000
    assert hub.pending("org/name", "math").missing == 5_005_857_400
    hub.located("org/name", "math")
    assert "downloading 5.0 GB of org/name; 5.1 GB are free" in caplog.text


def test_nothing_is_said_when_all_is_there(there, cache, caplog):
    there.files = {"config.json": 2, "model.safetensors": 4}
    lay(cache, {"config.json": "{}", "model.safetensors": "...."})
    hub.located("org/name", "math")
    hub.check_space({"math": "org/name"})
    assert caplog.messages == []


def test_a_download_shows_its_progress_and_a_copy_none(there, cache):
    quieten()  # as every command does, for transformers' own bars
    hub.located("org/name", "math")
    assert there.progress
    there.files = {"config.json": 2, "model.safetensors": 4}
    lay(cache, {"config.json": "{}", "model.safetensors": "...."})
    hub.located("org/name", "math")
    assert not there.progress


def test_how_much_is_to_come_can_be_asked_without_fetching(there, cache, tmp_path):
    assert hub.to_download(str(tmp_path), "math") == 0
    assert hub.to_download("org/name", "math") == 13_005_858_200
    assert there.fetched is None
    there.error = connection_error()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.to_download("org/name", "math")
    lay(cache, {"config.json": "{}", "model.safetensors": "...."})
    assert hub.to_download("org/name", "math") == 0


def test_a_download_that_does_not_fit_is_not_begun(there):
    there.free = 2_000_000_000
    with pytest.raises(
        CheckpointError,
        match=r"no room to download 13.0 GB of org/name; 2.0 GB are free in .*HF_HOME",
    ):
        hub.located("org/name", "math")
    assert there.fetched is None


def test_a_family_is_weighed_as_a_whole(there, tmp_path, caplog):
    sources = {"rm": "org/name", "math": "org/other@v2", "code": str(tmp_path)}
    hub.check_space(sources)
    assert "of org/other, together 26.0 GB; 1000.0 GB are free" in caplog.messages[-1]
    there.free = 20_000_000_000  # enough for either of them
    with pytest.raises(CheckpointError, match="together 26.0 GB; 20.0 GB are free"):
        hub.check_space(sources)
    there.error = connection_error()
    hub.check_space(sources)  # left to `located`
    assert there.fetched is None


def test_a_repository_without_weights_that_are_read(there):
    there.files = {"config.json": 800, "name-q4.gguf": 4_000}
    with pytest.raises(CheckpointError, match=f"no weights.*{PAGE}/tree/main"):
        hub.located("org/name", "math")


REFUSALS = [
    (refusal(errors.GatedRepoError, 403), f"is gated: open {PAGE}, .* {LOG_IN}"),
    (refusal(errors.GatedRepoError, 401), f"is gated: open {PAGE}, .* {LOG_IN}"),
    (refusal(errors.RepositoryNotFoundError, 404), f"there is no org/name.*{PAGE}"),
    (refusal(errors.RepositoryNotFoundError, 401), f"it is private.*{LOG_IN}"),
    (refusal(errors.HfHubHTTPError, 401), f"not let you read.*{PAGE}, then .*{LOG_IN}"),
    (refusal(errors.HfHubHTTPError, 403), f"not let you read.*{PAGE}, then .*{LOG_IN}"),
    (refusal(errors.HfHubHTTPError, 503), f"answered 503 for org/name@v9; see {PAGE}"),
    (refusal(errors.HfHubHTTPError, 429), "answered 429"),
    (
        refusal(errors.RevisionNotFoundError, 404),
        f"org/name has no revision 'v9': {PAGE}/commits/main",
    ),
    (connection_error(), f"cannot be reached for org/name@v9 .*{PAGE}"),
    (given_up(refusal(errors.HfHubHTTPError, 500)), "the hub answered 500"),
    (given_up(connection_error()), r"cannot be reached .*\(ConnectError\)"),
    (TimeoutError("timed out"), f"cannot be reached .*{PAGE}"),
    (RuntimeError("cas: no route"), "cannot be reached"),
    (errors.OfflineModeIsEnabled("set"), f"HF_HUB_OFFLINE forbids.*{PAGE}"),
    (errors.HFValidationError("bad"), "neither a folder here nor the id of"),
    (OSError(errno.ENOSPC, "No space left"), "is full; make room"),
]


@pytest.mark.parametrize(("error", "words"), REFUSALS)
def test_every_refusal_is_one_sentence_with_what_to_do(there, error, words):
    there.error = error
    with pytest.raises(CheckpointError, match=f"^math: .*{words}") as caught:
        hub.located("org/name@v9", "math")
    assert "\n" not in str(caught.value) and there.fetched is None


@pytest.mark.parametrize(
    "error", [error for error, _ in REFUSALS if "HFV" not in repr(error)]
)
def test_with_a_copy_in_the_cache_a_refusal_is_no_obstacle(there, cache, caplog, error):
    folder = lay(cache, {"config.json": "{}", "model.safetensors": "...."})
    there.error = error
    assert hub.located("org/name", "math") == folder
    assert hub.located(f"org/name@{SHA}", "math") == folder
    asked_for = isinstance(error, errors.OfflineModeIsEnabled)
    said = f"did not give org/name ({type(error).__name__}); the copy in its cache"
    assert (said in caplog.text) != asked_for
    with pytest.raises(CheckpointError):
        hub.located("org/name@v9", "math")  # another revision is another model
    with pytest.raises(CheckpointError):
        hub.located("org/other", "math")


def test_an_outline_has_every_shape_and_no_weights(there, cache, folders, monkeypatch):
    real = folders["padded"]
    file = real / "model.safetensors"
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    tensors = {
        name: SimpleNamespace(**entry)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    metadata = SimpleNamespace(
        files_metadata={file.name: SimpleNamespace(tensors=tensors)}
    )
    monkeypatch.setattr(
        "huggingface_hub.HfApi.get_safetensors_metadata", lambda *_, **__: metadata
    )
    texts = [path for path in real.iterdir() if path.suffix in (".json", ".jinja")]
    there.files = {path.name: path.stat().st_size for path in (file, *texts)}
    cache.mkdir()
    for path in texts:
        shutil.copy(path, cache)  # what the stand-in for snapshot_download answers with
    folder = hub.outline("org/name", "math")
    assert there.fetched[2] == sorted(path.name for path in texts)
    found, whole = Checkpoint(folder, "math"), Checkpoint(real, "math")
    assert found.rows("model.embed_tokens.weight")[-1] == "[PAD]"
    assert list(found.tensors) == list(whole.tensors)
    for info, other in zip(found.tensors.values(), whole.tensors.values()):
        assert (info.shape, info.dtype) == (other.shape, other.dtype)
    assert not found.read("model.norm.weight").any()  # a hole reads as zeros


def test_where_an_outline_cannot_be_had_the_checkpoint_is(there, tmp_path, monkeypatch):
    assert hub.outline(str(tmp_path), "math") == tmp_path
    no_header = errors.NotASafetensorsRepoError("only .bin files")

    def refuse(*_, **__):
        raise no_header

    monkeypatch.setattr("huggingface_hub.HfApi.get_safetensors_metadata", refuse)
    hub.outline("org/name", "math")
    assert "model-00001-of-00002.safetensors" in there.fetched[2]
    there.error = refusal(errors.GatedRepoError, 403)
    with pytest.raises(CheckpointError, match=f"is gated: open {PAGE}"):
        hub.outline("org/name", "math")


def test_an_interrupted_download_is_not_taken_for_a_copy(there, cache, monkeypatch):
    def broken(*_, **__):
        raise connection_error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(CheckpointError, match="run the same command again"):
        hub.located("org/name", "math")
    folder = lay(cache, {"config.json": "{}", "model-00001-of-00002.safetensors": ""})
    with pytest.raises(CheckpointError, match="run the same command again"):
        hub.located("org/name", "math")
    there.error = connection_error()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.located("org/name", "math")
    (folder / "model-00002-of-00002.safetensors").write_text("")
    assert hub.located("org/name", "math") == folder


def test_offline_for_real(cache):
    """HF_HUB_OFFLINE is set in conftest.py; nothing is replaced here."""
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids to fetch it"):
        hub.located("org/name", "math")
    folder = lay(cache, {"adapter_config.json": "{}", "adapter_model.safetensors": ""})
    assert hub.located("org/name", "math") == folder
