"""What every command shares at the terminal: errors in one line, progress, where results go, tables."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from dogerm.errors import DogermError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dogerm.benchmarks.group import Group
    from dogerm.benchmarks.report import Metric
    from dogerm.benchmarks.results import Results
    from dogerm.benchmarks.run import Progress
    from dogerm.export import Export
    from dogerm.inspection import Inspection
    from dogerm.method_speed import MethodSpeed
    from dogerm.rows import Tokenised
    from dogerm.speed import Speed
    from dogerm.suggest import Suggestion

INTERRUPTED = 130  # as a shell says of a command that Ctrl-C ended


class Commands(TyperGroup):
    """Says what went wrong in one line, without a traceback, and exits with 1.

    Of several processes that fail alike only the first says it.
    """

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is met here, not at exit
            return outcome
        except TyperException as error:  # wrong usage, which is the same in all of them
            if is_first():
                raise
            raise typer.Exit(getattr(error, "exit_code", 2)) from None
        except DogermError as error:
            message, known = str(error), error.is_said_elsewhere
        except BrokenPipeError:
            raise  # typer ends quietly then
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if error.strerror is None or (error.filename is None and not full):
                raise
            message = f"{error.filename or 'output'}: {error.strerror.lower()}."
            if full:
                message += " What was there is as it was. Make room, and run it again."
                _forget_output()
            known = getattr(error, "is_said_elsewhere", False)
        if not known:
            print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(1)


def group(summary: str, cls: type[Commands] = Commands) -> typer.Typer:
    return typer.Typer(
        cls=cls,
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def quieten() -> None:
    """Keep transformers' own bars and remarks out of standard error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=not is_first())


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on standard error while someone is looking; yields what moves it on."""
    from rich.progress import Progress

    console = stderr_console()
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int, total: int | None = total) -> None:
            bar.update(task, advance=done, total=total)

        yield advance


@contextmanager
def rows_progress(processes: Group) -> Iterator[Callable[[Progress], None]]:
    """A bar with rows a second and the time left, while someone is looking.

    Yields what moves it on. Of several processes the first one shows its own part.
    """
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task) -> Text:
            return Text(f"{task.speed:.1f} rows/s" if task.speed else "")

    console = stderr_console()
    several = processes.size > 1
    what = f"Process 1 of {processes.size}" if several else "Scoring"
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=120,
        disable=processes.rank > 0 or not console.is_terminal,
    ) as bar:
        task = None

        def show(step: Progress) -> None:
            nonlocal task
            if task is None:  # what an earlier run has done says nothing about the rate
                task = bar.add_task(what, total=step.total, completed=step.done)
            bar.update(task, completed=step.done, total=step.total)

        yield show


def output(path: str | Path | None):
    """Where results go: a file that appears when it is whole, or standard output."""
    from dogerm.store import replacing

    if path is not None and str(path) != "-":
        return replacing(path)
    sys.stdout.reconfigure(encoding="utf-8")
    return nullcontext(sys.stdout)


def write_row(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def why_skipped(reasons: Mapping[int, str], index: int) -> dict[str, str]:
    return {"skipped": reasons[index]} if index in reasons else {}


def counts(tokens: Tokenised) -> str:
    """Rows, pairs, and what was too long, in words."""
    pairs = sum(row.is_pair for row in tokens.rows)
    text = f"{len(tokens.rows)} rows ({pairs} pairs)"
    if tokens.skipped:
        text += f", {len(tokens.skipped)} skipped as too long"
    if tokens.cut:
        text += f", {tokens.cut} conversations cut"
    return text


def few(names: Sequence[str], most: int = 8) -> str:
    """Names one after another, the first of many with how many more there are; or none."""
    rest = len(names) - most
    return (
        ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "") or "none"
    )


def left_out(written: Export) -> str:
    """The tensors of each source that the checkpoint has no place for, in words."""
    ours = (*written.left_out, *written.unplaced.get("rm", ()))
    own = {"rm": ours} | {m: n for m, n in written.unplaced.items() if m != "rm"}
    called = {"rm": "the reward model"}
    parts = (f"{few(n, 3)} of {called.get(m, m)}" for m, n in own.items() if n)
    return ", ".join(parts) or "nothing"


def _forget_output() -> None:
    """What could not be written to standard output is not tried again at exit."""
    with suppress(OSError):
        sys.stdout.flush()
        return
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_first() -> bool:
    """Whether this process is the first of those that share a run, or alone."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """A line on standard error; of several processes that share a run only the first speaks."""
    if is_first():
        print(line, file=sys.stderr)


def print_inspection(found: Inspection) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from dogerm.inspection import facts, in_words

    (corner, *names), *rows = facts(found)
    columns = [Column(name, overflow="fold") for name in names]
    table = Table(corner, *columns, title=found.family["name"], title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for sentence in in_words(found):
        console.print(sentence, markup=False)
    for warning in found.warnings:
        console.print(f"Warning: {warning}", markup=False)


def print_speed(found: Speed) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "time", "against", "ratio")
    kept = {"device": "resident"}  # a word that is true of a CPU too
    for row in found.merging:
        place = kept.get(row.sources, row.sources)
        name = (
            f"merge {found.parameters / 1e6:.0f}M {row.dtype}, {row.lms} LM(s), {place}"
        )
        if row.seconds is None:
            table.add_row(name, "–", "not measured here", "–")
            continue
        table.add_row(
            name,
            f"{row.seconds * 1e3:.0f} ms",
            f"copy of {row.nbytes / 1e9:.2f} GB: {row.copy_seconds * 1e3:.0f} ms",
            f"{row.ratio:.2f}",
        )
    for peer in found.against:
        steps = ", ".join(step for step in peer.steps if step != "score")
        parts = [(f"merge, {peer.name}: {steps}", peer.ours["merge"], peer.ready)]
        if "score" in peer.steps:
            ours, theirs = sum(peer.ours.values()), sum(peer.steps.values())
            parts.append(
                ("then score the pair", peer.ours["score"], peer.steps["score"])
            )
            parts.append(("both", ours, theirs))
        for what, ours, theirs in parts:
            table.add_row(
                f"one λ: {what}",
                f"{ours * 1e3:.0f} ms",
                f"{peer.name}: {theirs:.2f} s",
                f"1/{theirs / ours:,.1f}",
            )
    scoring = found.scoring
    table.add_row(
        f"score {scoring.tokens:,} tokens, {scoring.dtype}",
        f"{scoring.tokens_per_second:,.0f} tokens/s",
        f"matrix multiplication: {scoring.gemm_flops_per_second / 1e9:,.0f} GFLOP/s",
        f"{scoring.ratio:.2f}",
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
    if found.methods:
        console.print(_methods_table(found.methods))
    console.print(
        f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']}, "
        f"torch {machine['versions']['torch']}. Medians after a warm-up."
    )


def _methods_table(methods: Sequence[MethodSpeed]) -> Table:
    from rich.table import Table

    table = Table(
        "one parameter, two LMs",
        "time",
        "to linear",
        "held beside it",
        "passes of its formula",
        "read and written: needed",
        "measured",
        "measured / needed",
    )
    for row in methods:
        table.add_row(
            row.method,
            f"{row.seconds * 1e3:.1f} ms",
            f"{row.ratio:.1f}",
            f"{row.extra:.1f} × float32",
            str(row.passes),
            f"{row.needed}",
            f"{row.moved:.1f}",
            f"{row.moved / row.needed:.2f}",
        )
    return table


def print_suggestion(found: Suggestion) -> None:
    from rich.console import Console
    from rich.table import Table

    from dogerm.written import as_options

    counts = found.settings
    table = Table(
        "accuracy",
        f"{counts['validation_pairs']:,} validation pairs, chosen on these",
        f"{counts['test_pairs']:,} held-out pairs",
    )
    names = {
        "base": "base RM",
        "linear": f"plain linear, λ = {found.linear.lam:g}",
        "suggested": "suggested",
    }
    for key, name in names.items():
        cells = [str(found.validation[key]), str(found.test[key])]
        table.add_row(name, *(cell.rsplit(" (n", 1)[0] for cell in cells))
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Suggested: {as_options(found.recipe)}")
    console.print(table, markup=False)
    console.print(found.verdict, markup=False)
    console.print(f"Against the base RM, held out: {found.against_base}.", markup=False)
    if found.shared_prompts:
        console.print(
            f"{found.shared_prompts} held-out pairs share their prompt with a validation pair."
        )
    if counts["skipped"] or counts["cut"]:
        console.print(
            f"Too long: {counts['skipped']} pairs skipped, {counts['cut']} conversations cut."
        )


def print_results(found: Results) -> None:
    """The paper's table: a line per model, published ones first, then one per recipe here."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    groups, points = found.headline, found.report.recipes
    sizes = [f"{name}\nn = {points[0].metrics[name].n}" for name in groups]
    columns = [Column(Text(size), justify="right") for size in sizes]
    table = Table(
        Column(""),
        *columns,
        title=f"{found.report.benchmark}, accuracy in % with 95% intervals",
        title_justify="left",
    )
    for model, numbers in found.benchmark.published.items():
        cells = (f"{numbers[name]:.1f}" if name in numbers else "" for name in groups)
        table.add_row(f"{model} (published)", *cells)
    table.add_section()
    for own in found.report.mixes:
        for point in own:
            cells = (_accuracy(point.metrics[name]) for name in groups)
            table.add_row(Text(str(point.recipe)), *cells)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)
    console.print(table)
    for choice in found.choices if len(points) > 1 else ():
        best, first = (points[place].recipe for place in (choice.recipe, 0))
        chosen = f"{choice.chosen_on} {choice.rule} rows"
        if choice.rule == "oracle":
            chosen = "the rows it is reported on (oracle)"
        metric = choice.metrics[choice.group]
        say(f"{choice.group}: {best} is best, chosen on {chosen}: {metric}.")
        if choice.recipe:
            say(f"  Against {first}: {choice.against}.")
    for place in found.unfinished:
        say(f"Not finished: {found.job.recipes[place]}. Run it again with --resume.")


def _accuracy(metric: Metric) -> str:
    if metric.accuracy is None:
        return "–"
    ties = f", {metric.ties} tied" if metric.ties else ""
    low, high = 100 * metric.low, 100 * metric.high
    return f"{100 * metric.accuracy:.1f} [{low:.1f}, {high:.1f}]{ties}"
