"""The real parts, started once for all tests here and emptied before each test that takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .providers import AioSmtp, Certificates, Dovecot, Postfix, private_folder

LOGINS = {f"u{i}": f"word-{i}" for i in range(6)}
"""The mailboxes at the provider."""


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    with private_folder("tls") as folder:
        yield Certificates.make(folder)


@pytest.fixture(scope="session")
def _dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    with private_folder("dovecot") as folder:
        dovecot = Dovecot(folder, LOGINS, certificates)
        try:
            yield dovecot.start()
        finally:
            dovecot.stop()


@pytest.fixture
def dovecot(_dovecot: Dovecot) -> Dovecot:
    for login in LOGINS:
        _dovecot.clear(login)
    return _dovecot


@pytest.fixture(scope="session")
def _postfix(_dovecot: Dovecot, certificates: Certificates) -> Iterator[Postfix]:
    if os.getuid() != 0:
        pytest.skip("Postfix starts only as root")
    with private_folder("postfix") as folder:
        postfix = Postfix(folder, _dovecot, certificates)
        try:
            yield postfix.start()
        finally:
            postfix.stop()


@pytest.fixture
def postfix(_postfix: Postfix) -> Postfix:
    _postfix.clear()
    return _postfix


@pytest.fixture
def second_provider() -> Iterator[AioSmtp]:
    """aiosmtpd, plain, without a login."""
    provider = AioSmtp().start()
    try:
        yield provider
    finally:
        provider.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For what the mail programs leave behind."""
    return tmp_path
