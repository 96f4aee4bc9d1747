"""The composition root: the only place that joins rooms. It builds them from the configuration, hands each its slice,
and keeps nothing of its own but who is who.

`core` has what lives as long as the process: the disk, the committer, the spool, the mailboxes, the ledger. `house` has
the services, which come and go with the configuration, and the signals. Each service that joins rooms is a `parts.Part`
in a module of its own; `verbs` are what the control socket answers.
"""

from __future__ import annotations

import gc
import logging
import sys
from typing import TYPE_CHECKING

import trio

from appliance.app.configuration import take_back
from appliance.app.core import Core
from appliance.app.house import House
from appliance.config.load import ConfigErrors
from appliance.host.systemd import log_to
from appliance.supervisor import CrashLoop, alone

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.model import Config

__all__ = ["Core", "House", "run"]


def run(config: Config, config_file: Path, *, debug: bool = False) -> int:
    """`posthouse run`; -> the exit code."""
    log_to(logging.DEBUG if debug else logging.INFO)
    gc.freeze()  # what was imported lives as long as the process: no collection need look at it
    try:
        core = Core(config)
    except BlockingIOError as error:
        print(f"posthouse: another Posthouse runs on {error.filename or config.site.state}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"posthouse: cannot use {config.site.state}: {error}", file=sys.stderr)
        return 1
    try:
        config = take_back(core, config, config_file)
    except ConfigErrors as error:
        print(f"posthouse: the last commit can't be taken back: {error}", file=sys.stderr)
        return 1
    try:
        trio.run(House(core, config, config_file).run, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        expected, defect = group.split((CrashLoop, OSError))
        if defect is not None:
            raise
        if isinstance(cause := alone(expected), OSError):  # a crash loop stands in the journal
            print(f"posthouse: {cause}", file=sys.stderr)
        return 1
    return 0
