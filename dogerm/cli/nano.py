"""python -m dogerm nano: train, make pairs, report on families of tiny models, compare methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dogerm.cli.options import Device, FamilyName, Shares, numbers_by_name
from dogerm.cli.terminal import INTERRUPTED, group, output, progress, quieten, say

nano = group("The embedded family of tiny models: train, make pairs, report.")


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

    quieten()
    train_family(out, seed, preset, device, threads)
    say(f"Wrote {out}.")


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
    quieten()
    if best_of:
        write_candidates(models or ASSETS / "nano", seed, n, out, best_of)
    else:
        write_pairs(domain, seed, n, out)
    say(f"Wrote {out}.")


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

    quieten()
    report(directory, pairs, problems)
    output(None)
    print((directory / "report.md").read_text(encoding="utf-8"))


@nano.command("record")
def nano_record(family: FamilyName = None) -> None:
    """Record the curves of a family's examples, which the page shows before any is computed.

    To be run again whenever the weights or the examples have changed: a recording of other
    weights is not shown.
    """
    from dogerm.family import Family
    from dogerm.nano.record import record

    quieten()
    say(f"Wrote {record(Family.load(family or 'nano'))}.")


@nano.command("methods")
def nano_methods(
    directories: Annotated[
        list[Path], typer.Argument(help="Families made by nano train, of other seeds.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.json", help="And FILE.md, the table.")
    ],
    pairs: Annotated[int, typer.Option(min=1, help="Test pairs of a domain.")] = 1000,
    validation: Annotated[
        int, typer.Option(min=1, help="Pairs of a domain to choose λ and options on.")
    ] = 300,
    share: Shares = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Only this one, and linear; once for each.",
            show_default="all",
        ),
    ] = None,
) -> None:
    """Every merge method's accuracy in each domain, against plain linear.

    Each method is judged at the λ and options that validation pairs choose by one rule,
    on the same test pairs with every family. Outcomes are kept as they are found: the
    same command again goes on where it was stopped.
    """
    from dogerm.merge import METHODS
    from dogerm.nano.methods import compare_methods, cost, table

    quieten()
    methods = tuple(dict.fromkeys(["linear", *method])) if method else tuple(METHODS)
    shares = numbers_by_name(share, "--share") or None
    merges, judged = cost(len(directories), pairs, validation, shares, methods)
    say(f"About {merges:,} merges and {judged:,} pairs to judge.")
    kept = out.with_suffix(".partial.jsonl")
    with output(out) as file, output(out.with_suffix(".md")) as page:
        try:
            with progress("Comparing", judged) as advance:
                found = compare_methods(
                    directories, pairs, validation, shares, methods, advance, kept
                )
        except KeyboardInterrupt:
            say(f"Stopped. What was judged is in {kept}: the same command goes on.")
            raise typer.Exit(INTERRUPTED) from None
        json.dump(found, file, ensure_ascii=False, indent=1)
        file.write("\n")
        page.write(table(found))
    kept.unlink()
    output(None)
    print(table(found).split("\n## ")[0])
    seconds = sum(family["seconds"] for family in found["families"])
    say(
        f"Took {seconds:.0f} s of processor time; wrote {out} and {out.with_suffix('.md').name}."
    )
