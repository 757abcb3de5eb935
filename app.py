"""DogeRM Studio's page, for `python app.py` and for Hugging Face Spaces.

DOGERM_FAMILY names another family than the embedded one; DOGERM_MCP=1 serves the endpoints
as tools for agents too. On a Space, or with DOGERM_PUBLIC=1, the page is for strangers: see
dogerm/ui/limits.py.
"""

import os
import sys

from dogerm.errors import DogermError
from dogerm.ui import serve


def asked(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


if __name__ == "__main__":
    try:
        serve(
            os.environ.get("DOGERM_FAMILY", "nano"),
            public="SPACE_ID" in os.environ or asked("DOGERM_PUBLIC"),
            mcp=asked("DOGERM_MCP"),
        )
    except DogermError as error:
        sys.exit(f"error: {error}")
