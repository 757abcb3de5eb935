"""python -m dogerm: every command parses, calls the library and prints.

Results go to standard output or --out, everything else to standard error. The library
is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer
from typer.core import TyperGroup

from dogerm.errors import DeviceError, DogermError

if TYPE_CHECKING:
    from dogerm.engine import Engine
    from dogerm.family import Family
    from dogerm.inspection import Inspection
    from dogerm.recipe import Recipe
    from dogerm.speed import Speed


class _Commands(TyperGroup):
    """Says what went wrong in one line, without a traceback, and exits with 1."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is met here, not at exit
            return outcome
        except DogermError as error:
            message = str(error)
        except BrokenPipeError:
            raise  # typer ends quietly then
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            message = f"{error.filename}: {error.strerror.lower()}."
        print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(1)


def _group(summary: str) -> typer.Typer:
    return typer.Typer(
        cls=_Commands,
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group(
    "Give a general reward model domain knowledge by merging it with domain LMs."
)
nano = _group("The embedded family of tiny models: train, make pairs, report.")
app.add_typer(nano, name="nano")

# Source: which models.
FamilyName = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME|FILE.toml",
        help="A family by name or TOML file.",
        show_default="nano",
    ),
]
Rm = Annotated[
    str | None,
    typer.Option(
        "--rm", metavar="PATH|ID", help="Reward model: a folder or hub id, with --lm."
    ),
]
Lms = Annotated[
    list[str] | None,
    typer.Option(
        "--lm", metavar="NAME=PATH|ID", help="A domain LM; once for each domain."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where it runs.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        help="Precision of the weights.",
        show_default="by device",
    ),
]
In8bit = Annotated[
    bool, typer.Option("--load-in-8bit", help="Hold the live weights in 8 bits.")
]

# Recipe: which merge.
Lam = Annotated[
    float | None,
    typer.Option(
        "--lam",
        help="λ, the LMs' part: 0 is the plain reward model.",
        show_default="the family's",
    ),
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        metavar="NAME=NUMBER",
        help="A domain's part of λ; they are normalised.",
        show_default="the family's",
    ),
]
MethodName = Annotated[str, typer.Option("--method", help="How weights are merged.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method."),
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent",
        metavar="PATH|ID",
        help="The pretrained model all come from, for methods that need it.",
    ),
]

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT.jsonl|-",
        help='Rows {"prompt", "responses"} or {"prompt", "chosen", "rejected"}.',
    ),
]
TooLong = Annotated[
    Literal["error", "skip", "cut"],
    typer.Option(
        "--too-long", help="What to do with a conversation over the model's limit."
    ),
]


@app.command()
def demo(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    share: Annotated[bool, typer.Option(help="A public link by Gradio.")] = False,
    public: Annotated[bool, typer.Option(help="Hardened, for strangers.")] = False,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
) -> None:
    """Serve the page on this machine, until interrupted."""
    from dogerm.ui import serve

    serve(
        _family(family, rm, lm) if rm or lm else family or "nano",
        host=None,  # GRADIO_SERVER_NAME, else this machine only
        port=port,
        share=share,
        public=public,
        load_in_8bit=load_in_8bit,
        offline=offline,
        device=device,
        dtype=dtype,
    )


@app.command()
def score(
    input: Input,
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    parent: Parent = None,
    too_long: TooLong = "error",
    out: Annotated[str | None, typer.Option(show_default="standard output")] = None,
) -> None:
    """Rewards of every row, by the base reward model and by the merged one.

    Writes each row with all its keys and the lists "base" and "merged" (for a pair:
    chosen first). A row that was skipped has null for both, and says why in "skipped".
    """
    from dogerm.benchmarks.pairs import metrics
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.sweep import sweep

    models = _family(family, rm, lm, parent)
    recipe = _recipe(models, lam, share, method, set)
    rows = read_rows(input)
    with _output(out) as file:
        engine = _engine(models, device, dtype, load_in_8bit, method)
        tokens = tokenise_rows(engine, rows, too_long)
        recipes = [recipe.with_lam(0), recipe]
        with _progress("Scoring", 2 * tokens.responses) as advance:
            found = sweep(engine, recipes, tokens.scored, advance)
        base, merged = (tokens.spread(rewards) for rewards in found)
        for index, row in enumerate(rows):
            own = {"base": base[index], "merged": merged[index]}
            _write(file, row.data | own | _skipped(tokens.skipped, index))
    before, after = (metrics(rows, r)["Overall"] for r in (base, merged))
    accuracy = f"; accuracy base {before}, merged {after}" if before.n else ""
    _say(f"Scored {_counts(tokens)} under {recipe}{accuracy}.")


@app.command()
def sweep(
    input: Input,
    out: Annotated[Path, typer.Option(help="Folder for report.json, rows.jsonl.")],
    lam: Annotated[
        str, typer.Option("--lam", metavar="START:STOP:STEP|A,B,C", help="The λ grid.")
    ] = "0:1:0.05",
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    parent: Parent = None,
    too_long: TooLong = "error",
) -> None:
    """Rewards of every row at every λ, and the accuracy of its pairs.

    Writes OUT/rows.jsonl, each row with "rewards" (a list for every λ), and
    OUT/report.json, the accuracies by the rows' domain with 95% intervals.
    """
    from dogerm.benchmarks import pairs
    from dogerm.recipe import lam_grid
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.sweep import sweep as run

    models = _family(family, rm, lm, parent)
    recipes = [_recipe(models, at, share, method, set) for at in lam_grid(lam)]
    rows = read_rows(input)
    with _output(out / "rows.jsonl") as rows_file:
        engine = _engine(models, device, dtype, load_in_8bit, method)
        tokens = tokenise_rows(engine, rows, too_long)
        with _progress("Sweeping", len(recipes) * tokens.responses) as advance:
            found = run(engine, recipes, tokens.scored, advance)
        found = [tokens.spread(rewards) for rewards in found]
        for index, row in enumerate(rows):
            own = None if index in tokens.skipped else [r[index] for r in found]
            skipped = _skipped(tokens.skipped, index)
            _write(rows_file, row.data | {"rewards": own} | skipped)
    report = pairs.report(engine, tokens, recipes, found)
    with _output(out / "report.json") as file:
        json.dump(report.to_json(), file, ensure_ascii=False, indent=1)
        file.write("\n")
    _say(f"Scored {_counts(tokens)} at {len(recipes)} λs; wrote {out / 'report.json'}.")
    if report.recipes[0].metrics["Overall"].n:
        for point in dict.fromkeys((report.recipes[0], pairs.best(report))):
            _say(f"λ = {point.recipe.lam:g}: {point.metrics['Overall']}")


@app.command()
def merge(
    out: Annotated[Path, typer.Option(help="Folder, new or empty.")],
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16", show_default="the reward model's"
        ),
    ] = None,
    load_in_8bit: In8bit = False,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    parent: Parent = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub", metavar="ORG/NAME", help="Upload it to the hub as well."
        ),
    ] = None,
) -> None:
    """Write the merged reward model as an ordinary checkpoint.

    It is streamed: memory holds one parameter at a time, whatever the model's size.
    """
    from dogerm.export import export, push_to_hub
    from dogerm.plan import size_text

    models = _family(family, rm, lm, parent)
    recipe = _recipe(models, lam, share, method, set)
    if load_in_8bit:
        raise DeviceError(
            "a merged checkpoint is written in 16 or 32 bits; load it in 8 bits later."
        )
    _quieten()
    with _progress("Writing") as advance:
        written = export(models, recipe, out, dtype, device, on_progress=advance)
    tokens = ", ".join(written.appended) or "none"
    known = "" if written.tokens_added else ", unknown to the tokenizer"
    print(
        f"Wrote {out}: {size_text(written.nbytes)} in {len(written.files)} file(s); "
        f"{len(written.merged)} parameters merged, {', '.join(written.kept)} kept, "
        f"tokens appended: {tokens}{known}."
    )
    if push:
        print(f"Uploaded: {push_to_hub(out, push)}")
    print(f"Load it: AutoModelForSequenceClassification.from_pretrained({str(out)!r})")


@app.command()
def inspect(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How a family fits together and what memory it takes. Reads no weights."""
    from dogerm.inspection import inspect

    _quieten()
    found = inspect(_family(family, rm, lm), device, dtype, load_in_8bit)
    if as_json:
        _output(None)
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        _print_inspection(found)


@app.command()
def speed(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="float32|bfloat16|float16", help="What is merged.")
    ] = "float16",
    load_in_8bit: In8bit = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also as JSON.")
    ] = None,
) -> None:
    """Rates of this machine: merging against copying, scoring, a curve.

    Merging is measured on synthetic checkpoints of 240M parameters, which take 1.5 GB
    of the temporary folder meanwhile; a curve on the family.
    """
    from dogerm.speed import measure

    models = _family(family, rm, lm)
    if load_in_8bit:
        raise DeviceError("8-bit merging is not measured; leave out --load-in-8bit.")
    _quieten()
    with _console().status("Measuring …") as status:
        found = measure(models, device, dtype, on_step=status.update)
    _print_speed(found)
    if json_file:
        with _output(json_file) as file:
            json.dump(found.to_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")


@nano.command("train")
def nano_train(
    out: Annotated[Path, typer.Option(help="Folder for the family's models.")],
    seed: Annotated[int, typer.Option(help="Same seed, same family.")] = 0,
    preset: Annotated[str, typer.Option(metavar="cpu|gpu")] = "cpu",
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train a family from nothing: its base, reward model, math LM and code LM."""
    from dogerm.nano.train import train_family

    _quieten()
    train_family(out, seed, preset, device, threads)
    _say(f"Wrote {out}.")


@nano.command("pairs")
def nano_pairs(
    domain: Annotated[str, typer.Option(metavar="math|code|chat|safety")],
    out: Annotated[Path, typer.Option(help="JSON Lines file.")],
    n: Annotated[int, typer.Option("--n", help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same pairs.")] = 0,
    best_of: Annotated[
        int | None,
        typer.Option(
            min=2, help="Instead of pairs, this many answers by the base LM to each."
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="The family that answers.", show_default="the embedded family"
        ),
    ] = None,
) -> None:
    """Write held-out preference pairs, or sets of answers to choose the best from."""
    from dogerm.family import ASSETS
    from dogerm.nano.pairs import write_candidates, write_pairs

    if best_of and domain != "math":
        raise typer.BadParameter("--best-of needs answers to check: --domain math.")
    _quieten()
    if best_of:
        write_candidates(models or ASSETS / "nano", seed, n, out, best_of)
    else:
        write_pairs(domain, seed, n, out)
    _say(f"Wrote {out}.")


@nano.command("report")
def nano_report(
    directory: Annotated[Path, typer.Argument(help="A family made by nano train.")],
    pairs: Annotated[int, typer.Option(min=1, help="Test pairs of a domain.")] = 1000,
    problems: Annotated[int, typer.Option(min=1, help="Best-of-16 problems.")] = 300,
) -> None:
    """Measure a family on held-out pairs, beside baselines and controls.

    The table goes to standard output and, with all numbers, into the folder.
    """
    from dogerm.nano.report import report

    _quieten()
    report(directory, pairs, problems)
    _output(None)
    print((directory / "report.md").read_text(encoding="utf-8"))


def _family(
    name: str | None,
    rm: str | None,
    lms: Sequence[str] | None,
    parent: str | None = None,
) -> Family:
    from dogerm.family import Family

    if lms and not rm:
        raise typer.BadParameter("--lm goes with --rm.")
    if rm and name:
        raise typer.BadParameter("name a --family, or --rm with --lm, not both.")
    family = Family.of(rm, _named(lms, "--lm")) if rm else Family.load(name or "nano")
    return replace(family, parent=parent) if parent else family


def _recipe(
    family: Family,
    lam: float | None,
    shares: Sequence[str] | None,
    method: str,
    settings: Sequence[str] | None,
) -> Recipe:
    """The recipe asked for, checked before any model is loaded."""
    from dogerm.merge import check_method

    try:
        numbers = {n: float(share) for n, share in _named(shares, "--share").items()}
    except ValueError as error:
        raise typer.BadParameter(f"--share: {error}.") from None
    options = {n: _value(text) for n, text in _named(settings, "--set").items()}
    recipe = family.recipe(lam, numbers, method, options)
    check_method(recipe, parent=family.parent is not None)
    return recipe


def _named(items: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options by name."""
    named: dict[str, str] = {}
    for item in items or ():
        name, _, value = item.partition("=")
        if not (name and value):
            raise typer.BadParameter(f"{option} is NAME=VALUE, got {item!r}.")
        if name in named:
            raise typer.BadParameter(f"{option} names {name} twice.")
        named[name] = value
    return named


def _value(text: str) -> Any:
    """A method's setting: a number, true or false where it reads as one, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _engine(
    family: Family, device: str, dtype: str | None, load_in_8bit: bool, method: str
) -> Engine:
    from dogerm.engine import Engine
    from dogerm.merge import METHODS

    _quieten()
    parent = METHODS[method].needs_parent
    with _console().status(f"Loading {family.name} …"):
        return Engine.load(family, device, dtype, load_in_8bit, parent)


def _quieten() -> None:
    """Keep transformers' own bars and remarks out of standard error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _console():
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on standard error while someone is looking; yields what moves it on."""
    from rich.progress import Progress

    console = _console()
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int, total: int | None = total) -> None:
            bar.update(task, advance=done, total=total)

        yield advance


def _output(path: str | Path | None):
    """Where results go: a file that appears when it is whole, or standard output."""
    from dogerm.store import replacing

    if path is not None and str(path) != "-":
        return replacing(path)
    sys.stdout.reconfigure(encoding="utf-8")
    return nullcontext(sys.stdout)


def _write(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _skipped(reasons: Mapping[int, str], index: int) -> dict[str, str]:
    return {"skipped": reasons[index]} if index in reasons else {}


def _counts(tokens) -> str:
    pairs = sum(row.is_pair for row in tokens.rows)
    counts = f"{len(tokens.rows)} rows ({pairs} pairs)"
    if tokens.skipped:
        counts += f", {len(tokens.skipped)} skipped as too long"
    if tokens.cut:
        counts += f", {tokens.cut} conversations cut"
    return counts


def _print_inspection(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from dogerm.plan import WORDS, size_text

    models = {"reward model": found.rm} | dict(found.lms)
    columns = [Column(name, overflow="fold") for name in models]
    table = Table("", *columns, title=found.family["name"], title_justify="left")
    facts = {
        "from": lambda m: m.source,
        "architecture": lambda m: m.architecture,
        "parameters": lambda m: f"{m.parameters:,}",
        "stored": lambda m: f"{size_text(m.nbytes)} {m.dtype}",
        "embedding rows": lambda m: f"{m.rows:,}",
        "tokens shared": lambda m: _count(m.shared),
        "  of those with another id": lambda m: _count(m.moved),
        "tokens only the RM has": lambda m: _count(m.rm_only),
        "tokens only it has": lambda m: _count(m.own),
        "chat template": lambda m: "yes" if m.chat_template else "no",
        "pad token is eos": lambda m: "yes" if m.pad_is_eos else "no",
        "left out": lambda m: ", ".join(m.left_out) or "–",
    }
    for fact, of in facts.items():
        table.add_row(fact, *map(of, models.values()))
    plan = found.plan
    weights = f"int8 beside {plan.dtype}" if plan.load_in_8bit else plan.dtype
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(
        f"Merged: {len(found.merged)} parameters, {found.rows:,} embedding rows "
        f"({len(found.appended)} appended). Kept: {', '.join(found.kept)}."
    )
    console.print(
        f"Memory on {plan.device}: {size_text(plan.needed)} of {size_text(plan.free)} free. "
        f"Live model {size_text(plan.live)} in {weights}; sources "
        f"{size_text(plan.sources)}, {WORDS[plan.place]}; batches of "
        f"{plan.batch_tokens:,} tokens. One merge waits for {plan.bottleneck}: about "
        f"{plan.merge_seconds() * 1e3:.3g} ms."
    )
    for warning in found.warnings:
        console.print(f"Warning: {warning}", markup=False)


def _print_speed(found: Speed) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "time", "against", "ratio")
    for row in found.merging:
        table.add_row(
            f"merge {found.parameters / 1e6:.0f}M {row.dtype}, {row.lms} LM(s), {row.sources}",
            f"{row.seconds * 1e3:.0f} ms",
            f"copy of {row.nbytes / 1e9:.2f} GB: {row.copy_seconds * 1e3:.0f} ms",
            f"{row.ratio:.2f}",
        )
    answers, family = found.answers, found.family
    for name, seconds in (
        ("one padded batch", answers.batch),
        ("one by one", answers.one_by_one),
    ):
        table.add_row(
            f"score {answers.responses} answers, shared prompt",
            f"{answers.shared:.2f} s",
            f"{name}: {seconds:.2f} s",
            f"{answers.shared / seconds:.2f}",
        )
    table.add_row(
        f"{family.name}: curve, {family.curve_points} λs, {family.curve_responses} answers",
        f"{family.curve_seconds * 1e3:.0f} ms",
    )
    table.add_row(f"{family.name}: score", f"{family.tokens_per_second:,.0f} tokens/s")
    machine = found.machine
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(
        f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']}, "
        f"torch {machine['versions']['torch']}. Medians after a warm-up."
    )


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)
