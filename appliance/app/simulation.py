"""`posthouse simulate`: the configurations that are compared, the traffic that is replayed against each, and the rows
that are shown. Nothing runs, and nothing is written.

Each configuration is a row; so is it with each other of its tariffs in the place of its lines'. A call for each message
is the row to compare them with.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from appliance.calls.policy import Settings, WayOut
from appliance.calls.simulate import Carrier, Result, one_call_each, simulate
from appliance.calls.traffic import Message, TrafficErrors, parse
from appliance.config.model import LineKind
from appliance.control.simulation_view import as_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.config.model import Config, Line, Tariff

__all__ = ["compare", "main", "read"]


def main(arguments: argparse.Namespace, configs: Sequence[tuple[str, Config]]) -> int:
    """The verb; -> the exit code."""
    file = arguments.traffic
    try:
        traffic = read(file)
    except OSError as error:
        print(f"posthouse: {file}: {error.strerror or error}", file=sys.stderr)
        return 1
    except TrafficErrors as errors:
        for line in str(errors).splitlines():
            print(f"{file}: {line}", file=sys.stderr)
        return 2
    rows = compare(configs, traffic, rate=arguments.rate, overhead_s=arguments.overhead)
    print(json.dumps(rows, indent=2) if arguments.json else as_text(rows))
    return 0


def read(path: Path) -> list[Message]:
    """The traffic of a CSV file. Raises OSError and TrafficErrors."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return parse(file)


def compare(
    configs: Sequence[tuple[str, Config]], traffic: Sequence[Message], *, rate: int, overhead_s: float
) -> list[dict[str, Any]]:
    """A row for each way to do it: `name`, `tariff` (null: free), `calls`, `seconds`, `cost`, `currency`, `left`,
    `reasons`, and `waits` by urgent, out and in: `messages`, `mean_s`, `most_s` (95 of 100), `longest_s`."""
    rows = []
    for i, (name, config) in enumerate(configs):
        mail = config.mail
        carrier = Carrier(
            rate=rate, overhead_s=overhead_s, bulk_size_bytes=mail.bulk_size_bytes, bulk_max_age_s=mail.bulk_max_age_s
        )
        tariffs = {tariff.name: tariff for tariff in config.tariff}
        settings = _settings(config, [tariffs.get(line.tariff) for line in config.line])
        if i == 0:
            own = settings.ways[0].tariff if settings.ways else None
            rows.append(_row("a call for each message", own, one_call_each(own, settings, carrier, traffic)))
        for tariff in (None, *tariffs.values()):
            if tariff is not None and all(line.tariff == tariff.name for line in config.line):
                continue
            one = settings if tariff is None else _settings(config, [tariff] * len(config.line))
            shown = name if tariff is None else f"{name} with the tariff {tariff.name}"
            rows.append(_row(shown, one.ways[0].tariff if one.ways else None, simulate(one, carrier, traffic)))
    return rows


def _settings(config: Config, tariffs: Sequence[Tariff | None]) -> Settings:
    ways = tuple(_way(line, tariff) for line, tariff in zip(config.line, tariffs, strict=True))
    return Settings(
        schedule=config.schedule,
        ways=ways,
        zone=ZoneInfo(config.site.timezone),
        bulk_max_age_s=config.mail.bulk_max_age_s,
        budget=config.budget,
    )


def _way(line: Line, tariff: Tariff | None) -> WayOut:
    """As the appliance's, on a line on which every dial is answered: no redial rule holds."""
    return WayOut(line.name, line.numbers, dials_numbers=line.kind is not LineKind.INTERFACE, tariff=tariff)


def _row(name: str, tariff: Tariff | None, result: Result) -> dict[str, Any]:
    waits = {
        kind: {
            "messages": w.messages,
            "mean_s": round(w.mean, 1),
            "most_s": round(w.most, 1),
            "longest_s": round(w.longest, 1),
        }
        for kind, w in result.waits.items()
    }
    return {
        "name": name,
        "tariff": tariff.name if tariff is not None else None,
        "calls": result.calls,
        "seconds": round(result.seconds, 1),
        "cost": f"{result.cost.normalize():f}",
        "currency": result.currency,
        "left": result.left,
        "reasons": result.reasons,
        "waits": waits,
    }
