"""The whole product with a tariff and a budget: what calls cost, bulk mail in a unit that is paid, a call that the budget
does not pay, what a killed process knows of its last one, and the report."""

from __future__ import annotations

import json
from pathlib import Path

from . import clients, corpus
from .product import Site, quick_lab, running
from .providers import HOST, AioSmtp

MONEY = {
    "tariff": [{"name": "t", "currency": "JPY", "periods": [{"unit": "30s", "price": 10}], "setup": 1}],
    "budget": {"per_day": 25},
}


def test_tariff_and_budget(tmp_path: Path, second_provider: AioSmtp) -> None:
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port), line={"tariff": "t"},
            mail={"bulk_size": "20KiB"}, more=MONEY,
        )  # fmt: skip
        with running(site):
            for ident, size in (("small", 1500), ("large", 30_000)):
                mail = corpus.make("plain", ident, "hanako@harbour.example", ["boss@far.example"], size=size)
                clients.by_smtplib(site.smtp, mail, site.login("hanako"), tmp_path)
            assert sorted(m["state"] for m in site.queue()) == ["bulk", "queued"]
            first = site.dial()
            assert (first["outcome"], first["sent"], first["units"], first["cost"]) == ("complete", 2, 1, "11"), first
            assert first["duration_s"] < 25 and site.queue() == []
            second = site.dial()
            assert second["cost"] == "11"
            refused = site.cli("dial")
            assert refused.returncode == 1
            assert "spent 22 of 25 JPY of the day" in refused.stderr, refused.stderr
            forced = json.loads(site.cli("dial", "--force", "--json").stdout)
            assert (forced["outcome"], forced["cost"]) == ("complete", "11")
            report = site.ask("report")
            assert [(r["calls"], r["cost"], r["sent"], r["each_cost"]) for r in report["total"]] == [(3, "33", 2, "22")]
            assert {u["user"]: u["sent"] for u in report["users"]} == {"": 0, "hanako": 2}
