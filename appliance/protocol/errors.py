"""The two ways in which a protocol goes wrong, told apart as h11 does: our own misuse, and the other side's."""

from __future__ import annotations

__all__ = ["LineTooLong", "LocalProtocolError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """Base of both."""


class LocalProtocolError(ProtocolError):
    """We asked a protocol object for what its state does not allow: a defect of ours."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow. The text is safe to journal once cleaned."""


class LineTooLong(RemoteProtocolError):
    """A line passed its limit before it ended."""
