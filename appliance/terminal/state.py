"""What a terminal keeps in its state folder: its key, its counter, its last login, whom it has met.

    key.pem           certificate and key; made once
    counter           of the last login, a decimal number
    login.json        {"relay": "HOST:PORT", "name": "pc21"}: what list, connect and forward use
    relays.json       {"HOST:PORT": "sha256:…"}: the relay servers' certificates, as pinned
    pins/NAME.json    {"fingerprint": "sha256:…"}: another terminal's certificate, pinned at first use
    socket            where the holder of the login listens (`local`)

All of it is replaced whole and durably, 0600 in folders of 0700. One process holds the login (a lock on the folder);
pins are a file each, made by whoever meets the other terminal first.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.storage.paths import lock_folders, unlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.storage.disk import Disk

__all__ = ["LastLogin", "State", "StateError", "default_folder"]

ALONE_S: Final = 10.0
_KEY_END: Final = "-----END CERTIFICATE-----\n"


class StateError(Exception):
    """The folder can't be used as it is; the text says why."""


@dataclass(frozen=True, slots=True)
class LastLogin:
    """`relay` is HOST:PORT as it was given."""

    relay: str
    name: str


def default_folder() -> Path:
    """The platform's place for a user's state."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "posthouse"
    base = os.environ.get("XDG_STATE_HOME", "")
    # A relative one is to be ignored (XDG Base Directory Specification).
    return (Path(base) if base.startswith("/") else home / ".local" / "state") / "posthouse"


class State:
    """One folder. Every method is quick and synchronous; those that write raise OSError, all StateError for a file that
    is not what it should be."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self.key = folder / "key.pem"
        self.socket = folder / "socket"
        self._pins = folder / "pins"
        self._disk = disk

    def prepare(self) -> None:
        """Makes the folders and, the first time, the key."""
        self._disk.mkdir(self._pins)
        if self.folder.stat().st_mode & 0o077:
            raise StateError(f"{self.folder} holds a key, but others may enter it: chmod 700 {self.folder}")
        if not self.key.exists():
            from appliance.transport.self_signed import make_self_signed

            with self._alone():
                # Another process may have been faster.
                if not self.key.exists():
                    certificate, key = make_self_signed(["terminal"])
                    self._disk.replace_file(self.key, certificate + key)

    def certificate(self) -> bytes:
        """This terminal's own, DER."""
        text = self._text(self.key) or ""
        certificate, end, _ = text.partition(_KEY_END)
        try:
            return ssl.PEM_cert_to_DER_cert(certificate + end)
        except ValueError as error:
            raise StateError(f"{self.key} holds no certificate") from error

    def lock(self) -> int | None:
        """Makes this process the holder of the login until `unlock`; None where another is."""
        try:
            return lock_folders(self.folder)[0]
        except BlockingIOError:
            return None

    def unlock(self, lock: int) -> None:
        unlock([lock])

    # ---- logins
    def next_counter(self, now_ms: int, above: int = 0) -> int:
        """For one login: durable before it is used. Above the last one, the clock and `above`."""
        path = self.folder / "counter"
        text = self._text(path) or "0"
        if not text.strip().isdecimal():
            raise StateError(f"{path} holds no number")
        counter = max(int(text) + 1, now_ms, above + 1)
        self._disk.replace_file(path, f"{counter}\n".encode())
        return counter

    def last_login(self) -> LastLogin | None:
        found = self._json(self.folder / "login.json")
        if not found:
            return None
        return LastLogin(str(found.get("relay", "")), str(found.get("name", "")))

    def remember_login(self, login: LastLogin) -> None:
        if self.last_login() != login:
            self._write(self.folder / "login.json", {"relay": login.relay, "name": login.name})

    # ---- whom it has met
    def relay_pin(self, relay: str) -> str | None:
        """The fingerprint of the relay server at HOST:PORT."""
        pin = self._json(self.folder / "relays.json").get(relay)
        return None if pin is None else str(pin)

    def pin_relay(self, relay: str, fingerprint: str) -> None:
        path = self.folder / "relays.json"
        known = self._json(path)
        if known.get(relay) != fingerprint:
            self._write(path, {**known, relay: fingerprint})

    def terminal_pin(self, name: str) -> str | None:
        """The fingerprint of another terminal; None where it was never met."""
        pin = self._json(self._pin(name)).get("fingerprint")
        return None if pin is None else str(pin)

    def pin_terminal(self, name: str, fingerprint: str) -> str:
        """Pins what was not pinned yet; -> what is pinned now."""
        with self._alone():
            pinned = self.terminal_pin(name)
            if pinned is None:
                pinned = fingerprint
                self._write(self._pin(name), {"fingerprint": fingerprint})
        return pinned

    def forget_terminal(self, name: str) -> bool:
        """-> whether it was known."""
        try:
            self._disk.unlink(self._pin(name))
        except FileNotFoundError:
            return False
        self._disk.fsync_folder(self._pins)
        return True

    def _pin(self, name: str) -> Path:
        # A name is of a-z 0-9 - . alone: with the suffix never one of the folder's own entries.
        return self._pins / f"{name}.json"

    # ---- files
    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes the key or a pin: each takes some milliseconds."""
        lock = None
        deadline = time.monotonic() + ALONE_S
        while lock is None:
            try:
                lock = lock_folders(self._pins)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        try:
            yield
        finally:
            unlock(lock)

    def _text(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeError as error:
            raise StateError(f"{path} is no text") from error

    def _json(self, path: Path) -> dict[str, Any]:
        text = self._text(path)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except ValueError as error:
            raise StateError(f"{path} is no JSON") from error
        if not isinstance(found, dict):
            raise StateError(f"{path} is not what this program writes")
        return found

    def _write(self, path: Path, what: dict[str, str]) -> None:
        self._disk.replace_file(path, json.dumps(what, indent=1).encode() + b"\n")
