"""The sender against aiosmtpd over real sockets: STARTTLS, implicit TLS, AUTH, verdicts per recipient."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import AuthResult, Envelope, Session

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.mail.upstream.sender import SendJob
from fakes.outbox import FakeOutbox
from fakes.ports import free_port


class Taken:
    """aiosmtpd's handler: keeps what it gets, refuses one address."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unknown@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append((envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 taken"


@contextmanager
def serving(tls: Tls, context: ssl.SSLContext, taken: Taken) -> Iterator[int]:
    def check(server: Server, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        good = (getattr(data, "login", b""), getattr(data, "password", b"")) == (b"hanako", b"geheim")
        return AuthResult(success=good, handled=False)

    controller = Controller(
        taken,
        hostname="127.0.0.1",
        port=free_port(),
        ssl_context=context if tls is Tls.IMPLICIT else None,
        tls_context=context if tls is Tls.STARTTLS else None,
        require_starttls=tls is Tls.STARTTLS,
        authenticator=check,
        # It counts STARTTLS alone as TLS, and warns of a login without.
        auth_required=tls is Tls.STARTTLS,
        auth_require_tls=tls is Tls.STARTTLS,
        data_size_limit=1_000_000,
        enable_SMTPUTF8=True,
    )
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@pytest.mark.parametrize("password", ["geheim", "wrong"])
@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
async def test_aiosmtpd(tmp_path: Path, tls: Tls, password: str) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    taken = Taken()
    with serving(tls, context, taken) as port:
        host = Smarthost(
            host="127.0.0.1", port=port, tls=tls, ca=str(tmp_path / "ca.pem"), login="hanako", secret="isp"
        )
        outbox = FakeOutbox(tmp_path, [host])
        bodies = {
            "m0": b"Subject: one\r\n\r\n.dot\r\n",
            "m1": b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" * 300_000,
            "m2": b"Subject: last\r\n\r\nno end",
            "m3": b"Subject: too big\r\n\r\n" + b"x\r\n" * 400_000,
        }
        outbox.put("m0", bodies["m0"], "a@far.example", "unknown@far.example")
        for i in ("m1", "m2", "m3"):
            outbox.put(i, bodies[i])
        call = OpenCall(1, "pstn", Reason.BY_HAND, 0, trio.open_tcp_stream)
        with trio.fail_after(30):
            report = await SendJob(outbox, {"isp": password}, "harbour").run(call)
    if password == "wrong":
        assert report.left
        assert "535" in report.detail
        assert len(outbox.messages) == 4
        return
    assert report == JobReport()
    came = [data for _, data in taken.mails]  # small before large
    assert came == sorted([bodies["m0"], bodies["m1"], bodies["m2"] + b"\r\n"], key=len)
    assert outbox.states("m0") == ["delivered", "failed"]
    assert outbox.states("m3") == ["failed"]
    assert "5.3.4" in outbox.gone["m3"].recipients[0].reply
    assert (call.tally.sent, call.tally.failed) == (3, 2)
