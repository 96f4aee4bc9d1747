"""The whole product with a tariff and a budget: what calls cost, bulk mail in a unit that is paid, a call that the budget
does not pay, what a killed process knows of its last one, and the report."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.lab.exchange import Progress
from appliance.lab.laboratory import NUMBER

from . import clients, corpus
from .product import Site, quick_lab, running
from .providers import HOST, AioSmtp, wait_until

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


def test_what_nobody_answers_costs_nothing_and_is_not_dialled_at_once_again(
    tmp_path: Path, second_provider: AioSmtp
) -> None:
    with quick_lab(profile={12: 10, 7: 1}) as lab:  # S7: it waits a second for the answer
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port), more=MONEY,
            line={"tariff": "t", "attempts": 3, "country": "jp"}, schedule={"retry": ["1m"]},
        )  # fmt: skip
        with running(site):
            lab.lab.access.answers = False
            done = site.cli("dial")
            assert (done.returncode, done.stdout) == (1, "no-answer\n")
            assert done.stderr == f"posthouse: call 1 to {NUMBER} failed: nobody answered; dialled 3 times\n"
            (call,) = site.calls()
            shown = ("outcome", "dials", "connected", "units", "cost", "currency")
            assert [call[k] for k in shown] == ["no-answer", 3, None, 0, "0", "JPY"]
            assert site.cli("report").stdout.startswith("no call has been connected yet")
            mail = corpus.make("plain", "x", "hanako@harbour.example", ["b@far.example"], extra=b"Priority: urgent\r\n")
            clients.by_smtplib(site.smtp, mail, site.login("hanako"), tmp_path)
            site.kill()  # the ledger's dials count over a restart too
            site.start()
            rule = "redial rules: country jp allows two redials within three minutes; 0570000111 again at "
            wait_until(lambda: site.status()["line"]["state"] != "hanging-up", "the modem is seen to be on-hook")
            line = site.status()["line"]
            assert (line["state"], line["reason"], line["number"]) == ("failed", "by-hand", NUMBER)
            assert line["next_call_reason"].startswith("urgent: 1 urgent message waits; ")
            assert rule in line["next_call_reason"] and line["next_call"] is not None
            for how in ([], ["--force"]):
                refused = site.cli("dial", *how)
                assert refused.returncode == 1 and refused.stderr.startswith(f"posthouse: {rule}"), refused.stderr
            assert "spent" not in line["next_call_reason"], "nothing of the 25 JPY is gone"
        assert [r.progress for r in lab.lab.exchange.records] == [Progress.NO_ANSWER] * 3
