"""The laboratory's provider, by smtplib and poplib, a fault at each of its steps; and the laboratory in a thread."""

from __future__ import annotations

import os
import poplib
import smtplib
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from appliance.lab.laboratory import NUMBER, LabThread
from appliance.lab.modem import ModemState
from appliance.lab.provider import DROP, Fault, Provider, Refuse

LETTER = b"From: <a@x.example>\r\nSubject: x\r\n\r\n.dot\r\nbody\r\n"


@contextmanager
def provided(**options: object) -> Iterator[Provider]:
    """A provider that runs, with the login `a` of password `b`."""
    provider = Provider(**options)  # type: ignore[arg-type]
    provider.add_login("a", "b")
    with LabThread(provider=provider):
        yield provider


@contextmanager
def smtp(provider: Provider) -> Iterator[smtplib.SMTP]:
    client = smtplib.SMTP("127.0.0.1", provider.smtp_port, timeout=10)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def pop3(provider: Provider) -> Iterator[poplib.POP3]:
    client = poplib.POP3("127.0.0.1", provider.pop3_port, timeout=10)
    try:
        yield client
    finally:
        client.close()


def log_in(client: poplib.POP3) -> None:
    client.user("a")
    client.pass_("b")


def test_it_keeps_what_is_submitted_and_wants_a_login() -> None:
    with provided() as provider, smtp(provider) as client:
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("a@x.example", ["b@y.example"], LETTER)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("a", "wrong")
        client.login("a", "b")
        for _ in range(2):
            client.sendmail("a@x.example", ["b@y.example", "c@y.example"], LETTER)
        client.quit()
        assert [(r.login, r.sender, r.addresses, r.data) for r in provider.received] == [
            ("a", "a@x.example", ("b@y.example", "c@y.example"), LETTER)
        ] * 2
        assert provider.sessions == ["smtp"]


def test_it_holds_mail_that_waits_and_one_session_at_a_time_has_it() -> None:
    with provided() as provider:
        uids = [provider.deliver("a", LETTER) for _ in range(3)]
        with pop3(provider) as client:
            log_in(client)
            assert [line.split()[1].decode() for line in client.uidl()[1]] == uids
            assert client.stat() == (3, 3 * len(LETTER))
            assert b"\r\n".join(client.retr(2)[1]) + b"\r\n" == LETTER
            with pop3(provider) as other, pytest.raises(poplib.error_proto, match="IN-USE"):
                log_in(other)
            client.dele(1)
            assert provider.waiting == 3
            client.quit()
        assert list(provider.maildrops["a"].messages) == uids[1:]
        with pop3(provider) as client, pytest.raises(poplib.error_proto, match="AUTH"):
            client.user("a")
            client.pass_("wrong")


def at(wanted: str, fault: Fault) -> object:
    return lambda step, detail: fault if step == wanted else None


def submit(provider: Provider) -> None:
    with smtp(provider) as client:
        client.login("a", "b")
        client.sendmail("a@x.example", ["b@y.example"], LETTER)
        client.quit()


@pytest.mark.parametrize("step", ["connect", "auth", "mail", "rcpt", "data", "body", "after-body"])
@pytest.mark.parametrize("fault", [Refuse(550, "5.0.0", "no"), DROP])
def test_smtp_fails_at_each_step(step: str, fault: Fault) -> None:
    with provided() as provider:
        provider.smtp_fault = at(step, fault)  # type: ignore[assignment]
        if step == "after-body" and isinstance(fault, Refuse):
            submit(provider)  # what is kept is acknowledged
        else:
            with pytest.raises((smtplib.SMTPException, OSError), match=None if fault is DROP else "no"):
                submit(provider)
        assert len(provider.received) == (step == "after-body")
        provider.smtp_fault = lambda step, detail: None
        submit(provider)


def fetch(provider: Provider) -> None:
    with pop3(provider) as client:
        log_in(client)
        client.retr(1)
        client.dele(1)
        client.quit()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # poplib leaks what it can't greet
@pytest.mark.parametrize("step", ["connect", "login", "retr", "quit", "after-quit"])
@pytest.mark.parametrize("fault", [Refuse(text="no"), DROP])
def test_pop3_fails_at_each_step(step: str, fault: Fault) -> None:
    with provided() as provider:
        provider.deliver("a", LETTER)
        provider.pop3_fault = at(step, fault)  # type: ignore[assignment]
        if step == "after-quit" and isinstance(fault, Refuse):
            fetch(provider)
        else:
            with pytest.raises((poplib.error_proto, OSError)):
                fetch(provider)
        assert provider.waiting == (step != "after-quit")
        until = time.monotonic() + 10
        while provider.maildrops["a"].locked:  # the server has yet to see the connection's end
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize("implicit", [True, False])
def test_tls(tmp_path: Path, implicit: bool) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with provided(tls=context, implicit=implicit) as provider:
        provider.deliver("a", LETTER)
        if implicit:
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", provider.smtp_port, timeout=10, context=trusting)
            reader: poplib.POP3 = poplib.POP3_SSL("127.0.0.1", provider.pop3_port, timeout=10, context=trusting)
        else:
            client = smtplib.SMTP("127.0.0.1", provider.smtp_port, timeout=10)
            client.starttls(context=trusting)
            reader = poplib.POP3("127.0.0.1", provider.pop3_port, timeout=10)
            reader.stls(context=trusting)
        with client:
            client.login("a", "b")
            client.sendmail("a@x.example", ["b@y.example"], LETTER)
        log_in(reader)
        reader.dele(1)
        reader.quit()
        assert (len(provider.received), provider.waiting) == (1, 0)


def test_a_laboratory_in_a_thread_serves_blocking_clients() -> None:
    with LabThread(paced=False, profile={10: 0}) as laboratory:
        lab = laboratory.lab
        lab.provider.add_login("a", "b")
        gate = laboratory.add_gate("second", "127.0.0.1", lab.provider.smtp_port)
        with pytest.raises(OSError):
            smtplib.SMTP("127.0.0.1", gate.port, timeout=10)
        port = os.open(lab.modem.port, os.O_RDWR | os.O_NOCTTY)
        try:
            os.write(port, f"ATD{NUMBER}\r".encode())
            laboratory.wait_online()
            with smtplib.SMTP("127.0.0.1", gate.port, timeout=10) as client:
                client.login("a", "b")
            with pytest.raises(TimeoutError):
                laboratory.wait_on_hook(0.05)
            laboratory.do(lab.line.cut_now)
            laboratory.wait_on_hook()
        finally:
            os.close(port)
        assert lab.modem.state is ModemState.COMMAND and lab.line.calls[0].connections == {"second": 1}
