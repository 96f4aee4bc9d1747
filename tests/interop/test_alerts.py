"""`[alerts]` over real parts: to a user's mailbox at once, and to an address elsewhere by Postfix with the next call. No call
is made for any of it.
"""

from __future__ import annotations

import os
import signal
from email import message_from_bytes
from pathlib import Path

import pytest

from . import clients, corpus
from .product import Site, quick_lab, running
from .providers import HOST, Dovecot, Postfix, wait_until

FAR = "boss@far.example"
TO = "alarm@harbour.example"
PASSWORD = "not-his-word"


@pytest.mark.long
def test_the_state_and_a_refused_login_are_told_here_and_far_and_cause_no_call(
    tmp_path: Path, postfix: Postfix, dovecot: Dovecot
) -> None:
    """By a schedule by which any message would make a call at once, and with an account whose password is wrong."""
    eager = {"queued_messages": 1, "queued_size": "1B", "oldest_message": "1s"}
    alias = [{"address": TO, "to": ["hanako", FAR]}]
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, postfix.smtp), pop3_target=(HOST, dovecot.pop3),
            logins={"u0": PASSWORD}, schedule=eager, mail={"bulk_max_age": "1s", "alias": alias},
            more={"alerts": {"to": TO, "every": "1d"}},
        )  # fmt: skip
        with running(site):
            wait_until(lambda: len(site.read("hanako")) == 1, "the user has the state at once")
            wait_until(lambda: site.status()["queue"]["oldest_s"] >= 2, "the other waits, old enough for any condition")
            (waiting,) = site.queue()
            assert [r["address"] for r in waiting["recipients"]] == [FAR]
            site.config["alerts"] = {"to": TO, "every": "2d"}
            site.write()
            assert site.process
            os.kill(site.process.pid, signal.SIGHUP)
            wait_until(lambda: "configuration read again: alerts" in site.journal(), "the service is another one")
            assert site.status()["line"]["next_call"] is None
            assert (site.calls(), lab.lab.modem.dials) == ([], [])
            # The call of a message takes it along.
            mail = corpus.make("plain", "one", "hanako@harbour.example", ["some@far.example"])
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            (call,) = site.wait_calls(1)
            assert (call["reason"], call["sent"]) == ("queued-messages", 2)
            state, alarm = wait_until(lambda: len(m := site.read("hanako")) == 2 and m, "the alarm is here too")
            assert "no call was made yet" in text_of(state)
            assert "refuses the login u0" in text_of(alarm)
            assert "What to do: Check the account's `login` and its secret." in text_of(alarm)
            assert PASSWORD not in text_of(alarm) + site.journal()
            # It waits for the next call.
            assert [[r["address"] for r in m["recipients"]] for m in site.queue()] == [[FAR]]
            site.dial()
            assert site.queue() == []
        far = [m.data for m in postfix.captured() if m.recipients == (FAR,)]
        assert sorted(text_of(data) for data in far) == sorted([text_of(state), text_of(alarm)])


def text_of(data: bytes) -> str:
    message = message_from_bytes(data)
    assert message["Auto-Submitted"] == "auto-generated" and message["To"] == TO
    return str(message.get_payload())
