"""python -m dogerm: every command parses, calls the library and prints.

Results go to standard output or --out, everything else to standard error. The library
is imported inside the commands, so that --help answers at once.
"""

from dogerm.cli.bench import bench
from dogerm.cli.main import app
from dogerm.cli.nano import nano

app.add_typer(bench, name="bench")
app.add_typer(nano, name="nano")

__all__ = ["app"]
