"""`posthouse report` for a person and for a spreadsheet: what the control socket answers in, text out. Pure."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from appliance.control.views import size, span, table
from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["as_csv", "as_text", "money"]

BAR: Final = 20
"""Columns of the longest bar."""
DAYS: Final = 31
"""Days shown to a person; `--json`, `--csv` and `--html` have all."""
FIGURES: Final = ("calls", "seconds", "bytes_in", "bytes_out", "cost", "sent", "fetched", "each_calls", "each_cost")
PARTS: Final = (("month", "months", "MONTH"), ("day", "days", "DAY"), ("user", "users", "USER"))


def money(amount: str, currency: str) -> str:
    """`30 JPY`, `1.05 EUR`; "-" for a line that is free."""
    if not currency:
        return "-"
    value = Decimal(amount)
    return f"{value:f} {currency}" if value == value.to_integral_value() else f"{value:.2f} {currency}"


def as_text(report: Mapping[str, Any], *, block: str = "#") -> str:
    """Tables by month, day and user, with bars of `block` for the cost (calls, where a line is free)."""
    if not report["total"]:
        return "no call has been connected yet, or has cost anything"
    out = [f"{report['since']} to {report['until']}"]
    for name, part, title in PARTS:
        rows = report[part][-DAYS:] if part == "days" else report[part]
        out += ["", _table(rows, name, title, block)]
    out += ["", *(_sentence(row) for row in report["total"])]
    return "\n".join(out)


def as_csv(report: Mapping[str, Any]) -> str:
    """A line for each month, day and user, with a heading; figures as in `--json`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("by", "key", "currency", *FIGURES))
    for name, part, _ in PARTS:
        for row in report[part]:
            writer.writerow((name, _safe(row[name]), row["currency"], *(row[figure] for figure in FIGURES)))
    return text.getvalue().removesuffix("\n")


def _table(rows: Sequence[Mapping[str, Any]], name: str, title: str, block: str) -> str:
    measures = [Decimal(row["cost"]) if row["currency"] else Decimal(row["calls"]) for row in rows]
    longest = max(measures, default=Decimal(0)) or Decimal(1)
    out = [(title, "CALLS", "TIME", "OUT", "IN", "SENT", "FETCHED", "COST", "", "WITH A CALL FOR EACH")]
    for row, measure in zip(rows, measures, strict=True):
        each = f"{row['each_calls']} calls"
        if row["currency"]:
            each += f", {money(row['each_cost'], row['currency'])}"
        bar = block * (round(BAR * measure / longest) or int(measure > 0))
        out.append(
            (
                clean(row[name]) or "-",
                str(row["calls"]),
                span(row["seconds"]),
                size(row["bytes_out"]),
                size(row["bytes_in"]),
                str(row["sent"]),
                str(row["fetched"]),
                money(row["cost"], row["currency"]),
                bar,
                each,
            )
        )
    return table(out)


def _sentence(row: Mapping[str, Any]) -> str:
    calls, messages = row["calls"], row["each_calls"]
    text = f"{calls} call{'' if calls == 1 else 's'} carried {messages} message{'' if messages == 1 else 's'}"
    if row["currency"]:
        each = money(row["each_cost"], row["currency"])
        text += f" for {money(row['cost'], row['currency'])}; with a call for each message: {each}"
    return text


def _safe(text: str) -> str:
    """A spreadsheet takes what begins so for a formula."""
    text = clean(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
