"""One IMAP connection: opened, logged in, its folder selected; then a `FetchSession`.

The login costs a round trip and the folder another; what the folder's answer says is enough to see that nothing has
changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.config.model import Tls
from appliance.mail.upstream.connection import ConnectionFailed, ServerConnection
from appliance.mail.upstream.fetch_session import ANSWER_S, FetchSession, LoginRefused, SessionFailed
from appliance.protocol import imap_events as imap
from appliance.protocol.errors import ProtocolError
from appliance.protocol.imap_client import ImapClient

if TYPE_CHECKING:
    from appliance.call import OpenCall
    from appliance.config.model import Account

__all__ = ["ImapSession"]


class ImapSession(FetchSession[imap.Event]):
    """`open` one. `selected` is what the server said of the folder."""

    def __init__(self, connection: ServerConnection, client: ImapClient, selected: imap.Selected) -> None:
        super().__init__(connection, client, _end)
        self.client = client
        self.selected = selected

    @classmethod
    async def open(
        cls, call: OpenCall, account: Account, password: str, *, folder: str, read_only: bool
    ) -> ImapSession:
        """Connects, logs in and opens the folder. Raises SessionFailed or LoginRefused."""
        client = ImapClient(account.login, password, starttls=account.tls is Tls.STARTTLS)
        try:
            connection = await ServerConnection.open(call, account)
        except ConnectionFailed as error:
            raise SessionFailed(str(error)) from error
        try:
            selected = await _open_folder(connection, client, folder, read_only=read_only)
        except (ConnectionFailed, ProtocolError) as error:
            await connection.close()
            raise SessionFailed(str(error)) from error
        except BaseException:
            await connection.close()
            raise
        return cls(connection, client, selected)


async def _open_folder(
    connection: ServerConnection, client: ImapClient, folder: str, *, read_only: bool
) -> imap.Selected:
    while True:
        data = client.data_to_send()
        if data:
            await connection.send(data)
        for event in client.receive(await connection.receive(ANSWER_S)):
            match event:
                case imap.Ready() if not client.over:
                    client.select(folder, read_only=read_only)
                case imap.Selected():
                    return event
                case imap.StartTls():
                    await connection.start_tls()
                    client.tls_started()
                case imap.Refused(text, permanent=True):
                    raise LoginRefused(text)
                case imap.Refused(text) | imap.Closed(text=text):
                    raise SessionFailed(text)
                case _:
                    pass


def _end(event: imap.Event) -> str:
    match event:
        case imap.Refused(text) | imap.Closed(clean=False, text=text):
            return text or "the server gave no reason"
        case _:
            return ""
