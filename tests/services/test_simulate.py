"""`posthouse simulate`: traffic read, replayed by the appliance's own policy, and compared."""

from __future__ import annotations

import io
import json
import random
from datetime import datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.calls.policy import Settings, WayOut
from appliance.calls.simulate import DIAL_S, Carrier, Result, one_call_each, simulate
from appliance.calls.traffic import Message, TrafficErrors, parse
from appliance.cli import main
from appliance.config.model import Budget, Period, Schedule, Tariff
from fakes.config import LINE, SITE, write

TOKYO = ZoneInfo("Asia/Tokyo")
TARIFF = Tariff(name="t", currency="JPY", periods=(Period(unit_s=180.0, price=Decimal(10)),))
CARRIER = Carrier(rate=9600, overhead_s=20.0, bulk_size_bytes=100_000, bulk_max_age_s=86400.0)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def jst(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=TOKYO).timestamp()


START = jst("2026-01-05 08:00")  # a Monday


def out(at_s: float, size: int = 9600, priority: str = "normal") -> Message:
    return Message(START + at_s, False, "hanako", size, priority)


def incoming(at_s: float, size: int = 9600) -> Message:
    return Message(START + at_s, True, "taro", size)


def run(
    *traffic: Message, tariff: Tariff | None = TARIFF, budget: Budget | None = None, carrier: Carrier = CARRIER,
    **schedule: Any,
) -> Result:  # fmt: skip
    settings = Settings(
        schedule=Schedule(**{"linger_s": 2.0, "min_gap_s": 0.0, **schedule}),
        ways=(WayOut("pstn", ("1",), tariff=tariff),),
        zone=TOKYO,
        bulk_max_age_s=carrier.bulk_max_age_s,
        budget=budget or Budget(),
    )
    return simulate(settings, carrier, sorted(traffic, key=lambda m: m.at))


# ---- what a call is
def test_both_directions_move_side_by_side_and_the_cost_is_the_tariffs() -> None:
    result = run(out(0), out(60), incoming(30, 19_200), queued_messages=2)
    assert (result.calls, result.cost, result.reasons, result.left) == (1, 10, {"queued-messages": 1}, 0)
    assert result.seconds == 20 + 20 + 2  # 20 KB in is longer than twice 10 KB out... as long
    # the first has waited for the second, for the dial, the overhead and its own bytes
    assert result.waits["out"].longest == 60 + DIAL_S + 20 + 10
    assert result.waits["in"].mean == 30 + DIAL_S + 20 + 20


def test_urgent_mail_goes_at_once_and_first() -> None:
    result = run(out(0, 96_000), out(600, 960, "urgent"), at=(time(18),))
    assert result.reasons == {"urgent": 1}
    assert result.waits["urgent"].longest == DIAL_S + 20 + 1
    assert result.waits["out"].longest == 600 + DIAL_S + 20 + 1 + 100


def test_what_comes_meanwhile_joins_the_call() -> None:
    result = run(out(0, 96_000), out(100, 9600), queued_messages=1)
    assert (result.calls, result.seconds) == (1, 20 + 100 + 10 + 2)


def test_at_is_called_for_what_waits_upstream_until_it_is_fetched() -> None:
    result = run(incoming(0), incoming(30 * HOUR), at=(time(18),))
    assert (result.calls, result.reasons, result.left) == (2, {"at": 2}, 0)
    assert result.waits["in"].longest == pytest.approx(10 * HOUR + DIAL_S + 30, abs=1)


def test_what_nobody_calls_for_is_left() -> None:
    assert run(incoming(0), out(5)).left == 2


def test_max_call_ends_it_and_the_retry_carries_the_rest() -> None:
    result = run(*(out(n, 90_000) for n in range(10)), queued_messages=10, max_call_s=300.0, retry_s=(60.0,))
    assert (result.calls, result.left, result.reasons) == (5, 0, {"queued-messages": 1, "retry": 4})
    assert run(out(0, 10**6), out(1), queued_messages=1, max_call_s=300.0).left == 1  # too large for any call


# ---- money
def test_bulk_mail_goes_in_time_that_is_paid() -> None:
    fits, too_much = out(0, 100_001), out(1, 160_000)
    result = run(fits, too_much, out(100), queued_messages=1)
    # 180 s less 30 s of work and the margin of 3: 100 KB fit into 147 s, the rest goes a day later
    assert (result.calls, result.reasons) == (2, {"queued-messages": 1, "bulk": 1})
    assert result.cost == 10 + 20
    assert result.waits["out"].longest == pytest.approx(DAY + DIAL_S + 20 + 160_000 / 960, abs=2)
    free = run(fits, too_much, out(100), queued_messages=1, tariff=None)
    assert (free.calls, free.cost, free.currency) == (1, 0, "")


def test_a_budget_is_never_overspent_and_calls_wait_for_the_next_day() -> None:
    traffic = [out(n * HOUR / 2) for n in range(30)]
    result = run(*traffic, queued_messages=1, budget=Budget(per_day=Decimal(50)))
    assert result.cost == 50 + 20 and result.left == 0  # twenty-five go in one call of the next day
    assert result.waits["out"].longest > 8 * HOUR
    assert run(*traffic, queued_messages=1).cost == 300


def test_a_call_for_each_message() -> None:
    traffic = [out(0), incoming(1, 960 * 170)]
    settings = Settings(schedule=Schedule(), ways=(), zone=TOKYO, bulk_max_age_s=DAY)
    result = one_call_each(TARIFF, settings, CARRIER, traffic)
    assert (result.calls, result.cost, result.seconds) == (2, 30, 30 + 190)
    assert one_call_each(None, settings, CARRIER, traffic).cost == 0


def test_an_office_of_twelve_pays_a_tenth() -> None:
    """A week of an office: calls and cost, against a call for each message."""
    rng = random.Random(7)
    traffic = []
    for day in range(5):
        for _ in range(12 * 8):  # a person's eight messages a day
            at = day * DAY + rng.triangular(0, 11, 3) * HOUR
            traffic.append(
                Message(START + at, rng.random() < 0.6, f"u{rng.randrange(12)}", int(rng.lognormvariate(8, 1)))
            )
    traffic.sort(key=lambda m: m.at)
    schedule = {"at": (time(8, 30), time(10), time(12), time(14), time(16), time(18), time(20))}
    result = run(*traffic, **schedule)
    each = one_call_each(
        TARIFF, Settings(schedule=Schedule(), ways=(), zone=TOKYO, bulk_max_age_s=DAY), CARRIER, traffic
    )
    assert result.left == 0
    assert result.calls * 10 <= each.calls
    assert result.cost * 10 <= each.cost


def test_a_year_takes_seconds() -> None:
    """Of steps, not of this machine's time: the policy is asked about once for each message and each call."""
    traffic = [out(n * 6 * HOUR) for n in range(4 * 365)]
    result = run(*traffic, at=(time(7), time(18)))
    assert result.left == 0 and 720 <= result.calls <= 732


# ---- reading
HEAD = "time,direction,user,size,priority\n"


def test_a_file_is_read_in_the_order_of_its_times() -> None:
    text = (
        "user,time,size,direction\n"
        "hanako,2026-01-05T08:00:02+09:00,10,out\n"
        "taro, 2026-01-04T23:00:01Z, 20, in\n"
    )  # fmt: skip
    assert parse(io.StringIO(text)) == [
        Message(START + 1, True, "taro", 20), Message(START + 2, False, "hanako", 10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", "line 1: the column 'time' is missing; expected time, direction, user, size, priority"),
        (
            "time,direction,size\n",
            "line 1: the column 'user' is missing; expected time, direction, user, size, priority",
        ),
        (HEAD, "there is no message in it"),
        (
            HEAD + "2026-01-05 08:00,out,u,1,\n",
            "line 2: '2026-01-05 08:00' is no time such as \"2026-01-05T07:30:00+09:00\"",
        ),
        (HEAD + "noon,out,u,1,\n", "line 2: 'noon' is no time such as \"2026-01-05T07:30:00+09:00\""),
        (HEAD + "2026-01-05T08:00Z,up,u,1,\n", "line 2: 'up' is no direction, out or in"),
        (HEAD + "2026-01-05T08:00Z,out,u,-1,\n", "line 2: '-1' is no size in bytes"),
        (HEAD + "2026-01-05T08:00Z,out,u,1e3,\n", "line 2: '1e3' is no size in bytes"),
        (HEAD + "2026-01-05T08:00Z,out,u,1,high\n", "line 2: 'high' is no priority: urgent, normal, non-urgent"),
        (HEAD + "2026-01-05T08:00Z,out\n" * 50, "\n".join(f"line {n}: '' is no size in bytes" for n in range(2, 22))),
    ],
)
def test_what_is_no_traffic(text: str, faults: str) -> None:
    with pytest.raises(TrafficErrors) as error:
        parse(io.StringIO(text))
    assert str(error.value) == faults


# ---- the command
MONEY = (
    '[[tariff]]\nname = "t"\ncurrency = "JPY"\nperiods = [{ unit = "3m", price = 10 }]\n'
    '[[tariff]]\nname = "minute"\ncurrency = "JPY"\nperiods = [{ unit = "1m", price = 4 }]\n'
)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, SITE + LINE + 'tariff = "t"\n' + MONEY + "[schedule]\nqueued_messages = 2\n")
    (tmp_path / "b.toml").write_text(SITE + LINE + '[schedule]\nevery = "1h"\n')
    traffic = tmp_path / "t.csv"
    lines = [f"{datetime.fromtimestamp(START, TOKYO) + timedelta(minutes=n)!s},out,u,9600," for n in range(4)]
    traffic.write_text(HEAD + "\n".join(lines).replace(" ", "T"))

    def simulated(*more: str) -> tuple[int, str, str]:
        code = main(["simulate", "--config", str(config), "--traffic", str(traffic), *more])
        return code, *capsys.readouterr()

    code, text, _ = simulated("--against", str(tmp_path / "b.toml"))
    assert code == 0
    names = [line.split("  ")[0] for line in text.splitlines()]
    assert names[1:5] == [
        "a call for each message",
        "posthouse.toml",
        "posthouse.toml with the tariff minute",
        "b.toml",
    ]
    code, text, _ = simulated("--json", "--rate", "960", "--overhead", "0")
    rows = json.loads(text)
    assert [(r["name"], r["tariff"], r["calls"], r["cost"]) for r in rows] == [
        ("a call for each message", "t", 4, "40"), ("posthouse.toml", "t", 1, "30"),
        ("posthouse.toml with the tariff minute", "minute", 1, "28"),
    ]  # fmt: skip
    assert rows[1]["waits"]["out"]["messages"] == 4 and rows[1]["reasons"] == {"queued-messages": 1}
    assert simulated("--rate", "0")[0] == 2
    assert simulated("--against", str(tmp_path / "none.toml"))[0] == 2
    traffic.write_text(HEAD + "x,out,u,1,\n")
    code, _, err = simulated()
    assert (code, err.startswith(f"{traffic}: line 2: 'x' is no time")) == (2, True)
    traffic.unlink()
    assert simulated()[0] == 1
