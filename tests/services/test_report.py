"""`posthouse report`: who pays for what, and what it looks like as text, CSV and a page."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.call import Outcome, Reason, Share, Tally
from appliance.calls.entry import FREE, Charge, Entry
from appliance.calls.report import report
from appliance.clock import Mark
from appliance.config.model import Period, Tariff
from appliance.control.report_page import _short, page
from appliance.control.report_view import as_csv, as_text, money
from fakes.clock import NOON

TOKYO = ZoneInfo("Asia/Tokyo")
TARIFF = Tariff(name="t", currency="JPY", periods=(Period(unit_s=60.0, price=Decimal(10)),))
HOUR = 3600.0


def call(
    at: float, users: dict[str, Share], *, seconds: float = 100.0, cost: str = "20", line: str = "pstn",
    up: bool = True, **more: Any,
) -> Entry:  # fmt: skip
    """At 9,600 bit/s; its bytes are those of the messages and 960 each way."""
    start = Mark(NOON + at, 1000.0 + at, "boot")
    tally = Tally(
        sum(s.sent for s in users.values()), sum(s.fetched for s in users.values()), users=users,
        bytes_in=960 + sum(s.bytes_in for s in users.values()), bytes_out=960 + sum(s.bytes_out for s in users.values()),
    )  # fmt: skip
    return Entry(
        1, line, Reason.AT, start, connected=start if up else None, rate=9600, tally=tally if up else Tally(),
        ended=Mark(start.wall + seconds, start.boot + seconds, "boot"), outcome=Outcome.COMPLETE,
        charge=Charge(2, Decimal(cost), "JPY", "t") if cost else FREE, **more,
    )  # fmt: skip


HANAKO, TARO = Share(2, 1, bytes_in=4800, bytes_out=14_400), Share(0, 1, bytes_in=9600)
CALLS = [
    call(0, {"hanako": HANAKO, "taro": TARO}),
    call(2 * HOUR, {"hanako": Share(1, 0, bytes_out=4800)}, seconds=30, cost="10"),
    call(4 * HOUR, {}, seconds=20, cost="10"),  # 1:00 on the 6th in Tokyo
    call(40 * 24 * HOUR, {"taro": TARO}),
]


def made(*calls: Entry) -> dict[str, Any]:
    return report(calls or CALLS, {"pstn": TARIFF}, TOKYO)


def rows(part: str, *keys: str, of: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in (of or made())[part]]


def test_by_day_month_and_all() -> None:
    assert rows("days", "day", "currency", "calls", "seconds", "cost", "sent", "fetched") == [
        ("2026-01-05", "JPY", 2, 130.0, "30", 3, 2),
        ("2026-01-06", "JPY", 1, 20.0, "10", 0, 0),
        ("2026-02-14", "JPY", 1, 100.0, "20", 0, 1),
    ]
    assert rows("months", "month", "calls", "cost", "bytes_in") == [
        ("2026-01", 3, "40", 3 * 960 + 14_400), ("2026-02", 1, "20", 960 + 9600),
    ]  # fmt: skip
    assert rows("total", "calls", "cost", "each_calls") == [(4, "60", 6)]
    assert (made()["since"], made()["until"]) == ("2026-01-05", "2026-02-14")


def test_by_user_in_proportion_to_bytes() -> None:
    users = {row["user"]: row for row in made()["users"]}
    # 19,200 and 9,600 bytes of the first call's 20 yen; a call for nothing is nobody's
    assert [(u, r["calls"], r["cost"]) for u, r in users.items()] == [
        ("", 1, "10"), ("hanako", 2, "23.3333"), ("taro", 2, "26.6667"),
    ]  # fmt: skip
    assert (users["hanako"]["sent"], users["hanako"]["fetched"], users["hanako"]["bytes_out"]) == (3, 1, 19_200)
    assert sum(Decimal(r["cost"]) for r in users.values()) == 60


def test_a_call_for_each_message() -> None:
    """The shortest overhead of a call that moved something is 23 s, that of 30 s with 6,720 bytes, and 1,920 bytes; a
    message of 6,400 bytes then takes 32 s: one unit. So does each other; 61 s are two."""
    assert rows("total", "each_cost") == [("60",)]
    long = call(0, {"hanako": Share(2, 0, bytes_out=2 * 960 * 60)}, seconds=124, cost="30")
    assert rows("total", "each_calls", "each_cost", of=made(long)) == [(2, "40")]
    assert rows("total", "each_cost", of=report(CALLS, {}, TOKYO)) == [("0",)]


@pytest.mark.parametrize(("size", "cost"), [(8320, "0.5"), (8321, "1")])
def test_a_call_for_each_message_by_volume_has_a_calls_own_bytes_too(size: int, cost: str) -> None:
    volume = Tariff(name="t", currency="USD", volume_unit_bytes=10_240, volume_price=Decimal("0.50"))
    one = call(0, {"hanako": Share(1, 0, bytes_out=size)})
    assert report([one], {"pstn": volume}, TOKYO)["total"][0]["each_cost"] == cost


def test_what_is_not_counted() -> None:
    busy = call(0, {}, cost="", up=False)
    answered_by_something = call(0, {}, cost="10", up=False)
    under_way = call(0, {})
    under_way.ended = None
    assert made(busy, under_way)["total"] == []
    assert rows("total", "calls", "cost", of=made(answered_by_something)) == [(0, "10")]


def test_currencies_and_free_lines_are_kept_apart() -> None:
    free = call(0, {"hanako": HANAKO}, cost="", line="lan")
    assert rows("total", "currency", "calls", "cost", of=made(free, CALLS[0])) == [("", 1, "0"), ("JPY", 1, "20")]


def test_money() -> None:
    assert [money(a, c) for a, c in (("30", "JPY"), ("1.5", "EUR"), ("0.0015", "GBP"), ("0", ""))] == [
        "30 JPY", "1.50 EUR", "0.00 GBP", "-",
    ]  # fmt: skip


def test_the_text_has_bars() -> None:
    text = as_text(made())
    assert "2026-01-05 to 2026-02-14" in text
    days = [line for line in text.splitlines()[1:] if line.startswith("2026-01-0")]
    assert days[0].count("#") == 20 and days[1].count("#") == 7  # 30 and 10 yen
    assert text.endswith("4 calls carried 6 messages for 60 JPY; with a call for each message: 60 JPY")
    assert as_text(report([], {}, TOKYO)).startswith("no call has been connected yet")
    free = as_text(made(call(0, {"hanako": HANAKO}, cost="", line="lan")))
    assert "1 call carried 3 messages" in free and "JPY" not in free


def test_the_table_for_a_spreadsheet() -> None:
    evil = call(0, {"=cmd()": HANAKO})
    lines = list(csv.DictReader(io.StringIO(as_csv(made(evil, *CALLS)))))
    assert [line["by"] for line in lines] == ["month"] * 2 + ["day"] * 3 + ["user"] * 4
    assert "'=cmd()" in [line["key"] for line in lines]
    assert next(line for line in lines if line["key"] == "taro")["cost"] == "26.6667"


class Page(HTMLParser):
    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_stands_by_itself() -> None:
    text = page(made(call(0, {'<script>"&': HANAKO}), *CALLS), "har<bour")
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    assert {"svg", "rect", "table"} < set(parser.tags) and "script" not in parser.tags
    assert not [a for a, value in parser.attributes if a in ("src", "href") or "//" in (value or "")]
    assert "&lt;script&gt;" in text and "har&lt;bour" in text
    # a column a day, from the first to the last, of both kinds where there is something; forty-one days have 8 labels
    assert text.count('text-anchor="middle"') == 2 * 7
    assert "No call has ended yet." in page(report([], {}, TOKYO), "harbour")


def test_columns_are_as_high_as_what_was_paid() -> None:
    text = page(made(), "harbour")
    day = text[text.index("By day, JPY") : text.index("Time on the line")]
    bars = {}
    for one in day.split("<rect ")[1:]:
        kind = one.split('class="')[1].split('"')[0]
        bars[kind, one.split("<title>")[1].split(":")[0]] = float(one.split('height="')[1].split('"')[0])
    assert bars["paid", "2026-01-05"] / bars["paid", "2026-01-06"] == 3.0
    assert bars["each", "2026-01-05"] / bars["paid", "2026-01-06"] == 5.0


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("0.0375", "0.0375"), ("0.5", "0.5"), ("12.5", "12.5"), ("100", "100"), ("1250.4", "1250")],
)
def test_marks_of_a_scale(value: str, text: str) -> None:
    assert _short(Decimal(value)) == text
