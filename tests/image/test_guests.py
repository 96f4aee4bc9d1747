"""The harness itself: two machines, the modems between them, Debian's pppd at both ends and no Posthouse."""

from __future__ import annotations

import time

import pytest

from .conftest import Start
from .guest import Guest
from .provider import PPP_LOGIN, PPP_SECRET, SERVER, Provider
from .telephone import PROVIDER, Telephone

BYTES = 40_000
SERVE = """
import socket
s = socket.create_server(("", 9))
c = s.accept()[0]
c.sendall(open("/srv/file", "rb").read())
c.shutdown(socket.SHUT_WR)
c.recv(1)
"""


def prepare(guest: Guest) -> None:
    guest.put("/etc/ppp/chap-secrets", f'{PPP_LOGIN} * "{PPP_SECRET}" *\n', mode=0o600)
    guest.sh("modprobe ppp_async")


@pytest.mark.seconds(240)
def test_pppd_calls_pppd_and_the_line_keeps_its_rate(machine: Start, provider: Provider, telephone: Telephone) -> None:
    near = machine("plain", prepare, modem=telephone.folder / "site.modem")
    chat = f"chat '' ATZ OK ATDT{PROVIDER} CONNECT '\\c'"
    options = (
        "local",
        "crtscts",
        "nodetach",
        "noauth",
        "noccp",
        "novj",
        "defaultroute",
        "logfile",
        "/var/log/pppd.log",
    )
    pppd = near.begin("pppd", "ttyS1", "115200", *options, "user", PPP_LOGIN, "connect", chat, seconds=120, check=False)
    near.wait("ip addr show ppp0 | grep -q 10.64.0.2", "PPP is up")
    provider.guest.sh(f"head -c {BYTES} /dev/urandom >/srv/file")
    provider.guest.daemon("python3", "-c", SERVE, log="/dev/null")
    provider.guest.wait("ss -ltn | grep -q ':9 '", "the file is served")
    begun = time.monotonic()
    near.run("bash", "-c", f"exec 3<>/dev/tcp/{SERVER}/9; cat <&3 >/tmp/got")
    took = time.monotonic() - begun
    assert near.get("/tmp/got") == provider.guest.get("/srv/file")
    at_least = BYTES * 8 / 33600
    assert took > at_least, "faster than the line"
    record = telephone.records[0]
    assert record.bytes_in > BYTES
    near.sh("pkill pppd")
    assert pppd().code == 5  # by a signal
    assert telephone.dials == [PROVIDER]
    assert near.sh("ls /sys/class/net").split() == ["lo"]


@pytest.mark.long
def test_a_usb_modem_that_is_unplugged_comes_back_as_another_tty(machine: Start, telephone: Telephone) -> None:
    near = machine("plain", prepare)
    near.sh("modprobe -a xhci_pci ftdi_sio")
    modem = telephone.folder / "site.modem"
    near.machine.plug_serial("modem", modem)
    near.wait("test -c /dev/ttyUSB0", "the adapter is there")
    ask = "chat '' AT OK </dev/ttyUSB{n} >/dev/ttyUSB{n}"
    near.run("bash", "-c", f"stty -F /dev/ttyUSB0 raw -echo; {ask.format(n=0)}")
    near.machine.unplug_serial("modem")
    near.wait("test ! -e /dev/ttyUSB0", "the adapter is gone")
    near.machine.plug_serial("other", None)
    near.wait("test -c /dev/ttyUSB0", "another adapter has taken its name")
    near.machine.plug_serial("modem", modem)
    near.wait("test -c /dev/ttyUSB1", "the modem is back")
    near.run("bash", "-c", f"stty -F /dev/ttyUSB1 raw -echo; {ask.format(n=1)}")
