"""The parts that serve the LAN's mail programs: SMTP and POP3, on their listeners, with the certificate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import trio

from appliance.app.network import own_addresses
from appliance.mail.lan.pop3 import Pop3Service
from appliance.mail.lan.smtp import SmtpService, Terms
from appliance.transport.listen import Address, open_listeners, parse_address, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["Pop3Part", "SmtpPart"]

DRAIN_S: Final = 5.0
"""What sessions under way get when we stop; a client that is cut off sends its message again."""
SMTPS_PORT: Final = 465
POP3S_PORT: Final = 995


class _Listening:
    """What the two share: the plain listeners have the first handler, those on `tls_port` the second."""

    name: str
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._accepting: list[trio.SocketListener] = []

    async def _listen(
        self,
        addresses: Sequence[str],
        tls_port: int,
        handlers: Sequence[Callable[[trio.abc.HalfCloseableStream, str], Awaitable[None]]],
        refuse: Callable[[str], bytes],
        task_status: trio.TaskStatus[None],
    ) -> None:
        house = self._house
        wanted = [parse_address(a) for a in addresses]
        async with trio.open_nursery() as nursery:
            listeners = self._accepting = await open_listeners(wanted, to_come=own_addresses(house.config))
            house.listeners[self.name] = [str(Address(*s.socket.getsockname()[:2])) for s in listeners]
            for secure, handler in enumerate(handlers):
                some = [s for a, s in zip(wanted, listeners, strict=True) if (a.port == tls_port) == bool(secure)]
                await nursery.start(
                    functools.partial(serve, self.name, some, handler, limits=house.limits, refuse=refuse)
                )
            task_status.started()
            await trio.sleep_forever()

    async def drain(self) -> None:
        accepting, self._accepting = self._accepting, []
        for listener in accepting:
            await listener.aclose()


class SmtpPart(_Listening):
    name = "smtp"

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._service: SmtpService | None = None

    def slice(self, config: Config) -> tuple[object, ...]:
        mail = config.mail
        return (mail.smtp, mail.certificate, mail.key, Terms.of(mail))

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        core, config = self._house.core, self._house.config
        tls = await trio.to_thread.run_sync(core.tls, config) if config.mail.smtp else None
        service = self._service = SmtpService(core.office, core.logins, config.mail, core.clock, tls=tls)
        handlers = (service.handle, service.handle_tls)
        await self._listen(config.mail.smtp, SMTPS_PORT, handlers, service.refuse, task_status)

    async def drain(self) -> None:
        await super().drain()
        if self._service is not None:
            with trio.move_on_after(DRAIN_S):
                await self._service.drain()


class Pop3Part(_Listening):
    name = "pop3"

    def slice(self, config: Config) -> tuple[object, ...]:
        mail = config.mail
        return (mail.pop3, mail.certificate, mail.key, mail.plaintext_login, mail.idle_timeout_s)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        core, mail = self._house.core, self._house.config.mail
        tls = await trio.to_thread.run_sync(core.tls, self._house.config) if mail.pop3 else None
        service = Pop3Service(
            core.mailboxes,
            core.logins,
            tls=tls,
            plaintext_login=mail.plaintext_login,
            idle_timeout_s=mail.idle_timeout_s,
        )
        handlers = (service.handler, functools.partial(service.handler, implicit_tls=True))
        await self._listen(mail.pop3, POP3S_PORT, handlers, service.refuse, task_status)
