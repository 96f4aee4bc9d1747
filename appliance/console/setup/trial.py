"""The trial call at the end of the first start: a call by hand, shown as it goes, and what came of it."""

from __future__ import annotations

import email.message
import email.utils
import smtplib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from appliance.call import LineState
from appliance.config.addresses import split_listener
from appliance.console.setup.advice import STATES, advice
from appliance.control.client import NotRunning, Refused, ask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.console.setup.talk import Talk

__all__ = ["submit", "trial_call"]

SUBMIT_S: Final = 30.0
POLL_S: Final = 0.5
IMPLICIT_TLS_PORT: Final = 465


def trial_call(talk: Talk, socket: Path) -> bool:
    """Makes it; -> whether all went well. KeyboardInterrupt hangs up."""
    began = time.monotonic()
    state = ""

    def step(text: str) -> None:
        talk.show(f"{time.monotonic() - began:6.1f} s  {text}")

    def on_progress(what: Mapping[str, Any]) -> None:
        nonlocal state
        if what["state"] != state:
            state = what["state"]
            step(f"{STATES[LineState(state)]}")
        step(f"    {what['text']}")

    try:
        call = ask(socket, "dial", {"watch": True, "force": True}, on_progress=on_progress)
    except (Refused, NotRunning) as error:
        talk.say(f"No call was made: {error}")
        return False
    except KeyboardInterrupt:
        talk.show("")
        talk.say("Hanging up.")
        try:
            ask(socket, "hangup")
        except (Refused, NotRunning):
            pass
        return False
    said = advice(call)
    talk.show("")
    talk.say(said.what)
    talk.say(
        f"{call['sent']} sent, {call['fetched']} fetched, in {call['duration_s']:.0f} s"
        + (f" at {call['rate']} bit/s." if call["rate"] else ".")
    )
    if said.todo:
        talk.say(f"What to try: {said.todo}")
    return not said.todo


def submit(config: Config, password: str, recipient: str) -> str:
    """Hands in a message from the first user, as a mail program would; -> "", or why it is not taken."""
    user = config.user[0]
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = user.addresses[0], recipient, "Test from Posthouse"
    message["Date"], message["Message-ID"] = email.utils.localtime(), email.utils.make_msgid(domain=config.site.domain)
    message.set_content(f"The Posthouse of {config.site.name} has made its first call.\n")
    address, port = split_listener(config.mail.smtp[0])
    host = str(address)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    end = time.monotonic() + SUBMIT_S
    while True:
        try:
            with _connect(host, port) as client:
                client.login(user.name, password)
                client.send_message(message)
            return ""
        except ConnectionError as error:  # its device has only just come up
            if time.monotonic() > end:
                return str(error)
            time.sleep(POLL_S)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            return str(error)


def _connect(host: str, port: int) -> smtplib.SMTP:
    context = ssl.create_default_context()
    # Our own certificate is self-signed, and the way to ourselves is this host.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if port == IMPLICIT_TLS_PORT:
        return smtplib.SMTP_SSL(host, port, timeout=SUBMIT_S, context=context)
    client = smtplib.SMTP(host, port, timeout=SUBMIT_S)
    client.starttls(context=context)
    return client
