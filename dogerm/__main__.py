from dogerm.cli import app

app()
