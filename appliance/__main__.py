"""`posthouse` and `python -m appliance`."""

from __future__ import annotations

import sys

from appliance.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
