"""A line of kind interface: a device that somebody else brings up, here by a pppd of its own over the same modem, as a mobile
router's or an administrator's would be. A call is a window on it."""

from __future__ import annotations

from .guest import Guest
from .provider import ADDRESS, PPP_LOGIN, PPP_SECRET, SMTP_HOST, WORLD, Provider
from .site import Site
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

DEVICE = "wwan0"


def bring_up(guest: Guest) -> None:
    """Somebody else's connection, until `pkill pppd`."""
    guest.put("/etc/ppp/chap-secrets", f'{PPP_LOGIN} * "{PPP_SECRET}" *\n', mode=0o600)
    guest.put("/etc/resolv.conf", f"nameserver {ADDRESS}\n")
    guest.daemon(
        "pppd", "ttyS1", "115200", "local", "crtscts", "nodetach", "noauth", "noccp", "defaultroute", "lcp-echo-interval", "5",
        "lcp-echo-failure", "3", "ifname", DEVICE, "user", PPP_LOGIN, "connect",
        f"chat '' ATZ OK ATDT{PROVIDER} CONNECT '\\c'", log="/var/log/pppd.log",
    )  # fmt: skip
    # The host's resolver is asked once; the provider's name server starts for our address only now.
    guest.wait(f"getent hosts {SMTP_HOST}", "the device is up, and the provider's name server answers")


def test_a_call_is_a_window_on_a_device_that_is_up_by_itself(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    site.config["line"] = [{"name": "router", "kind": "interface", "device": DEVICE, "attempts": 1}]
    del site.secrets["ppp"]
    provider.deliver("hanako", message("come-in", to="hanako@isp.example"))
    site.start()
    site.send("somebody@world.example", message("go-out", size=8_000))
    call = site.dial()
    assert (call["outcome"], call["connected"], call["sent"]) == ("no-network", None, 0), call

    bring_up(site.guest)
    call = site.dial()
    assert (call["outcome"], call["sent"], call["fetched"]) == ("complete", 1, 1), call
    assert call["bytes_out"] > 8_000
    assert subjects(provider.waiting(WORLD)) == ["go-out"]
    # The window is closed, the device is not ours to end; one call of the modem's in all, and none of it by Posthouse.
    assert site.guest.sh(f"cat /sys/class/net/{DEVICE}/carrier").strip() == "1"
    assert telephone.dials == [PROVIDER]

    # It goes away in the middle of a call.
    for n in range(2):
        site.send("somebody@world.example", message(f"again-{n}", size=10_000))
    before = telephone.carried
    site.dial_nowait()
    telephone.wait_carried(before + 4000)
    site.guest.sh("pkill pppd")
    call = site.wait_call_over()
    assert call["outcome"] == "carrier-lost", call
    assert len(site.ask("queue")) >= 1
