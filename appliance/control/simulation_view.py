"""`posthouse simulate` for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from appliance.control.report_view import money
from appliance.control.views import span, table
from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["as_text"]

KINDS: Final = (("urgent", "URGENT WAITS"), ("out", "MAIL OUT WAITS"), ("in", "MAIL IN WAITS"))


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each way to do it: what it costs, and how long mail waits (on average, 95 of 100, at the longest)."""
    kinds = [(kind, title) for kind, title in KINDS if any(row["waits"][kind]["messages"] for row in rows)]
    out = [("", "CALLS", "ON THE LINE", "COST", *(title for _, title in kinds), "LEFT")]
    for row in rows:
        waits = (_waits(row["waits"][kind]) for kind, _ in kinds)
        cost = money(row["cost"], row["currency"])
        out.append((clean(row["name"]), str(row["calls"]), span(row["seconds"]), cost, *waits, str(row["left"])))
    return table(out) + "\n(on average, 95 of 100 at most, at the longest; LEFT: what no call has carried)"


def _waits(w: Mapping[str, Any]) -> str:
    return " / ".join(span(w[k]) for k in ("mean_s", "most_s", "longest_s")) if w["messages"] else "-"
