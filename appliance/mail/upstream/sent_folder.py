"""The folder in which a provider keeps what it has taken from a user: where an in-doubt message is looked up by its
Message-ID before it is sent again (DESIGN §2 In doubt).

It owns that question alone. A folder that can't be looked at answers nothing: the message is then sent again, as it is
where there is no such folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from appliance import events
from appliance.mail.upstream.fetch_session import LoginRefused, SessionFailed
from appliance.mail.upstream.imap_session import ImapSession
from appliance.protocol import imap_events as imap

if TYPE_CHECKING:
    from collections.abc import Collection

    from appliance.call import OpenCall
    from appliance.config.model import Account

__all__ = ["SentFolder"]


class SentFolder:
    """One user's, at one account. `secret` is the password itself."""

    def __init__(self, account: Account, secret: str) -> None:
        self.account = account
        self._secret = secret

    async def holds(self, call: OpenCall, message_ids: Collection[str]) -> set[str]:
        """Which of these lie there."""
        account = self.account
        asked = [m for m in message_ids if m.isascii() and m.isprintable()]
        found: set[str] = set()
        if not asked:
            return found
        try:
            session = await ImapSession.open(call, account, self._secret, folder=account.sent_folder, read_only=True)
        except (SessionFailed, LoginRefused) as error:
            self._tell(call, str(error))
            return found
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.send_due)
                await self._look(session, asked, found, call)
                nursery.cancel_scope.cancel()
        finally:
            await session.close()
        return found

    async def _look(self, session: ImapSession, asked: list[str], found: set[str], call: OpenCall) -> None:
        try:
            for message_id in asked:
                session.client.search_message_id(message_id)
                if (await session.one(imap.Found)).uids:
                    found.add(message_id)
        except SessionFailed as error:
            self._tell(call, str(error))

    def _tell(self, call: OpenCall, why: str) -> None:
        account = self.account
        events.emit(
            events.SENT_FOLDER_FAILED,
            call_id=call.id, folder=account.sent_folder, login=account.login, host=account.host, why=why,
        )  # fmt: skip
