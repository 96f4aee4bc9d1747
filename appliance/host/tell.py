"""`python3 -m appliance.host.tell EVENT [FIELD=VALUE]…`: puts an event of the table into the journal. For the image's
programs that are no Python (rootfs-overlay/usr/lib/posthouse): theirs are as all others are, with ids and fields.
"""

from __future__ import annotations

import logging
import sys

from appliance import events
from appliance.host.systemd import log_to

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """-> 0; 2 and a sentence where there is no such event, or it has other fields."""
    name, *given = arguments or [""]
    event = events.table().get(name)
    fields = {key: value for key, _, value in (one.partition("=") for one in given)}
    if event is None or fields.keys() != set(event.fields):
        has = f"has the fields {', '.join(event.fields)}" if event else "is no event"
        print(f"tell: {events.clean(name)} {has}", file=sys.stderr)
        return 2
    log_to(logging.INFO, journal=True)
    events.emit(event, **fields)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
