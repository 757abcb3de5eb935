"""python -m dogerm nano: train, make pairs and report on a family of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dogerm.cli.options import Device
from dogerm.cli.terminal import group, output, quieten, say

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
