"""`python3 -m appliance.app.failsafe`: in a failsafe start, where no Posthouse runs, the power LED says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from appliance.app.board import led_names
from appliance.config.load import ConfigErrors, load
from appliance.config.model import Leds as LedNames
from appliance.host.led_table import FAILSAFE
from appliance.host.leds import LEDS_FOLDER, show_once

__all__ = ["main"]

CONFIG: Final = Path("/etc/posthouse/posthouse.toml")


def main(file: Path = CONFIG, folder: Path = LEDS_FOLDER) -> int:
    """-> the exit code. A configuration that is wrong or not there names no LED: the board's are left."""
    try:
        leds = load(file).leds
    except ConfigErrors:
        leds = LedNames()
    name = led_names(leds).get("power", "")
    if name and (folder / name).is_dir():
        try:
            show_once(folder / name, FAILSAFE)
        except (OSError, ValueError) as error:
            print(f"posthouse: LED {name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
