"""One POP3 connection: opened and logged in; then a `FetchSession`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.config.model import Tls
from appliance.mail.upstream.connection import ConnectionFailed, ServerConnection
from appliance.mail.upstream.fetch_session import ANSWER_S, FetchSession, LoginRefused, SessionFailed
from appliance.protocol import pop3_client as pop3
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from appliance.call import OpenCall
    from appliance.config.model import Account

__all__ = ["Pop3Session"]


class Pop3Session(FetchSession[pop3.Event]):
    """`open` one."""

    def __init__(self, connection: ServerConnection, client: pop3.Pop3Client) -> None:
        super().__init__(connection, client, _end)
        self.client = client

    @classmethod
    async def open(cls, call: OpenCall, account: Account, password: str) -> Pop3Session:
        """Connects and logs in. Raises SessionFailed or LoginRefused."""
        client = pop3.Pop3Client(account.login, password, starttls=account.tls is Tls.STARTTLS)
        try:
            connection = await ServerConnection.open(call, account)
        except ConnectionFailed as error:
            raise SessionFailed(str(error)) from error
        try:
            await _log_in(connection, client)
        except (ConnectionFailed, ProtocolError) as error:
            await connection.close()
            raise SessionFailed(str(error)) from error
        except BaseException:
            await connection.close()
            raise
        return cls(connection, client)


async def _log_in(connection: ServerConnection, client: pop3.Pop3Client) -> None:
    while True:
        data = client.data_to_send()
        if data:
            await connection.send(data)
        for event in client.receive(await connection.receive(ANSWER_S)):
            match event:
                case pop3.Ready():
                    return
                case pop3.StartTls():
                    await connection.start_tls()
                    client.tls_started()
                case pop3.Refused(text, login=True):
                    raise LoginRefused(text)
                case pop3.Refused(text):
                    raise SessionFailed(text)
                case pop3.Closed(text=text):
                    raise SessionFailed(text)
                case _:
                    pass


def _end(event: pop3.Event) -> str:
    match event:
        case pop3.Refused(text) | pop3.Closed(committed=False, text=text):
            return text or "the server gave no reason"
        case _:
            return ""
