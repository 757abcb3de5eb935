"""DogeRM Studio's page, for `python app.py` and for Hugging Face Spaces.

DOGERM_FAMILY names another family than the embedded one.
"""

import os
import sys

from dogerm.errors import DogermError
from dogerm.ui import serve

if __name__ == "__main__":
    try:
        serve(
            os.environ.get("DOGERM_FAMILY", "nano"),
            public="SPACE_ID" in os.environ,
        )
    except DogermError as error:
        sys.exit(f"error: {error}")
