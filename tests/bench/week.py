"""A simulated week of an office of twelve (`posthouse simulate`): calls and cost against a call for each message.

The traffic is drawn from a fixed seed. Heavy is 29 messages sent and 81 received a person and working day, what
Radicati counted in companies in 2003; medium a quarter of it, light a quarter of that. Sizes are log-normal, which fits
all but the tail (Shah and Noble, A study of e-mail patterns, 2007), with a median of `MEDIAN` bytes; one in a hundred is
above 110 KB. What is received above `fetch_limit` comes as a stub.

Beside each rate stands what no schedule can be below: one call's set-up and the bytes of the busier direction at the
line's rate, in units of the day and of the night. On the slowest line that alone is more than a tenth, so it is
reckoned there with COMPRESS too, for what comes in: as if all of it were text, and as if all were attachments.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PEOPLE: Final = 12
SEED: Final = 6
MONDAY: Final = datetime(2026, 1, 5, tzinfo=timezone(timedelta(hours=9)))
MEDIAN: Final = 5000
SIGMA: Final = 1.35
LEAST: Final = 800
"""A header with a line of text."""
MOST: Final = 5_000_000
"""What a provider takes."""
FETCH_LIMIT: Final = 100 * 1024
STUB: Final = 4000
"""What comes of a larger one: header and first lines."""
VOLUMES: Final = {"light": (2, 5), "medium": (7, 20), "heavy": (29, 81)}
"""Sent and received a person and working day."""
SCHEDULES: Final = {
    "hourly": '[schedule]\nevery = "1h"\nwindows = ["mon-fri 07:30-19:30"]\n',
    "4 times a day": '[schedule]\nat = ["07:30", "11:30", "15:00", "18:00"]\nwindows = ["mon-fri 07:00-19:00"]\n',
    "3 times a day": '[schedule]\nat = ["07:30", "12:30", "18:00"]\nwindows = ["mon-fri 07:00-19:00"]\n',
    "once, by night": '[schedule]\nat = ["23:30"]\nmax_call = "8h"\n',
}
RATES: Final = (2400, 9600, 33600)
OVERHEAD_S: Final = 20.0
"""Of a call, as `simulate` has it."""
UNITS: Final = {"by day": 180.0, "by night": 240.0}
"""Seconds that `PRICE` pays for."""
PRICE: Final = 10
COMPRESS: Final = {"": 1.0, "COMPRESS, text": 0.25, "COMPRESS, files": 0.76}
"""What comes in by IMAP with COMPRESS=DEFLATE, as a share of itself: text as `scripts/bench line` measures it, and the
base64 of what can't be compressed."""
CONFIG: Final = """[site]
name = "harbour"
timezone = "Asia/Tokyo"
[[line]]
name = "pstn"
port = "/dev/ttyS1"
numbers = ["0570000111"]
bearer = "none"
tariff = "pstn"
[[tariff]]
name = "pstn"
currency = "JPY"
periods = [ { days = "mon-fri", from = "08:00", to = "23:00", unit = "180s", price = 10 }, { unit = "240s", price = 10 } ]
"""


Row = tuple[datetime, str, str, int, str]
"""Time, direction, user, size, priority."""


def traffic(volume: str) -> list[Row]:
    """In the order of their times."""
    chance = random.Random(SEED)
    sent, received = VOLUMES[volume]
    rows = []
    for day in range(5):
        for person in range(PEOPLE):
            for direction, mean in (("out", sent), ("in", received)):
                for _ in range(_poisson(chance, mean)):
                    size = min(max(LEAST, round(chance.lognormvariate(math.log(MEDIAN), SIGMA))), MOST)
                    if direction == "in" and size > FETCH_LIMIT:
                        size = STUB
                    urgent = direction == "out" and chance.random() < 0.005
                    at = MONDAY + timedelta(days=day, hours=_hour(chance))
                    rows.append((at, direction, f"u{person}", size, "urgent" if urgent else "normal"))
    return sorted(rows)


def _poisson(chance: random.Random, mean: int) -> int:
    count, at = 0, chance.expovariate(mean)
    while at < 1:
        count, at = count + 1, at + chance.expovariate(mean)
    return count


def _hour(chance: random.Random) -> float:
    """Between 8 and 18, most in the middles of morning and afternoon."""
    return chance.triangular(8, 13, 10.5) if chance.random() < 0.5 else chance.triangular(13, 18, 15.5)


def bench() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for volume in VOLUMES:
            rows = traffic(volume)
            size = sum(row[3] for row in rows)
            print(
                f"\n{volume}: {len(rows)} messages in a week, {size / 1e6:.1f} MB; a call for each, and of that\n"
                f"  {'bit/s':>6} {'':16}{'calls':>7}{'cost':>7}{'calls':>7}{'cost':>7}{'ratio':>8}{'ratio':>8}"
                f"{'out waits':>11}{'in waits':>10}{'left':>6}"
            )
            for rate in RATES:
                each = _each(folder, rows, rate)
                for compress, share in COMPRESS.items() if rate == min(RATES) else [("", 1.0)]:
                    carried = _compressed(rows, share)
                    least = ", ".join(f"{bound(carried, rate, s) / each:.3f} {unit}" for unit, s in UNITS.items())
                    print(f"  {rate:6} {compress or 'as it is'}: the bytes alone cost {least}")
                    for schedule in SCHEDULES:
                        _row(schedule, rate, each, len(rows), _simulated(folder, carried, rate, schedule)[1])


def bound(rows: Sequence[Row], rate: int, unit_s: float) -> int:
    """What no schedule can be below: one call for all, whose set-up and bytes fill each unit of `unit_s`."""
    most = max(sum(size for _, way, _, size, _ in rows if way == direction) for direction in ("out", "in"))
    return math.ceil((OVERHEAD_S + most / (rate / 10)) / unit_s) * PRICE


def _compressed(rows: Sequence[Row], share: float) -> list[Row]:
    return [(at, way, user, round(size * share) if way == "in" else size, p) for at, way, user, size, p in rows]


def _each(folder: Path, rows: Sequence[Row], rate: int) -> float:
    """The cost of a call for each, of mail as it is."""
    return float(_simulated(folder, rows, rate, next(iter(SCHEDULES)))[0]["cost"])


def _simulated(folder: Path, rows: Sequence[Row], rate: int, schedule: str) -> list[dict[str, Any]]:
    """The rows of `posthouse simulate`: a call for each, and ours."""
    (folder / "posthouse.toml").write_text(CONFIG + SCHEDULES[schedule])
    lines = [f"{at.isoformat()},{way},{user},{size},{priority}" for at, way, user, size, priority in rows]
    (folder / "traffic.csv").write_text("time,direction,user,size,priority\n" + "\n".join(lines) + "\n")
    command = [
        sys.executable, "-m", "appliance", "simulate", "--json", "--rate", str(rate),
        "--overhead", str(OVERHEAD_S), "--config", str(folder / "posthouse.toml"),
        "--traffic", str(folder / "traffic.csv"),
    ]  # fmt: skip
    made: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return made


def _row(schedule: str, rate: int, each_cost: float, each_calls: int, ours: dict[str, Any]) -> None:
    calls, cost = ours["calls"] / each_calls, float(ours["cost"]) / each_cost
    waits = [f"{ours['waits'][way]['mean_s'] / 3600:.1f} h" for way in ("out", "in")]
    print(
        f"  {rate:6} {schedule:16}{each_calls:7}{each_cost:7.0f}{ours['calls']:7}{ours['cost']:>7}"
        f"{calls:8.3f}{cost:8.3f}{waits[0]:>11}{waits[1]:>10}{ours['left']:6}",
        flush=True,
    )
