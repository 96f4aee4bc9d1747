"""Events: the host's network."""

from __future__ import annotations

from appliance.events.event import INFO, WARNING, Event

INTERFACE_SET_UP = Event(
    "interface-set-up",
    "02f5612540d349ada59f771d5a95e9de",
    INFO,
    "{interface}: set up: {what}",
    follows="It is as configured.",
)
INTERFACE_PUT_RIGHT = Event(
    "interface-put-right",
    "0ab689ef34b7400f9696486614bc5db2",
    WARNING,
    "{interface}: something else changed it; put right: {what}",
    follows="It is as configured again.",
    action="If it repeats, find the other program that manages the device and take it away from there.",
)
INTERFACE_STATE = Event(
    "interface-state",
    "6c043b1151fa4bc5b35bbe4e52296bfe",
    INFO,
    "{interface}: {device} is {state}",
    follows="no-carrier: nothing is plugged in there, or its far end is off.",
)
INTERFACE_FAILED = Event(
    "interface-failed",
    "baac788c11af429ba1c117a4f043736a",
    WARNING,
    "{interface}: not as configured, tried again: {why}",
    follows="The other interfaces are set up.",
    action="Change the interface's configuration; `Operation not permitted`: Posthouse needs CAP_NET_ADMIN.",
)
DEVICE_ABSENT = Event(
    "device-absent",
    "ea39b9f975764848a73a39ba7c9aef07",
    WARNING,
    "{interface}: the device {device} is not there",
    follows="It is set up when it comes.",
    action="Nothing, if it is to come later.",
)
DEVICE_THERE = Event(
    "device-there",
    "279908ce4c3a45e8a58136acae485c61",
    INFO,
    "{interface}: the device {device} is there",
    follows="It is being set up.",
)
LEASE_GOT = Event(
    "lease-got",
    "1654cce074d247cabc3a352540ac44cb",
    INFO,
    "{interface}: {address} from the DHCP server {server} for {seconds} s, with {routes}",
    follows="The interface has the address.",
)
LEASE_LOST = Event(
    "lease-lost",
    "3b605fb0a0424443b2e35202e9e16e73",
    WARNING,
    "{interface}: the lease of {address} has ended",
    follows="The address is gone; the DHCP server is asked on.",
)
DHCP_CLIENT_FAILED = Event(
    "dhcp-client-failed",
    "9de1c0999d7e4af6b1ce1b84a7d76f65",
    WARNING,
    "{interface}: no lease, asked again: {why}",
    follows="The interface has no address from DHCP.",
    action="Look for the DHCP server; `Operation not permitted`: udhcpc needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.",
)
FIREWALL_LOADED = Event(
    "firewall-loaded",
    "5461b36ff18d4644bf7bb2f30f12f727",
    INFO,
    "the firewall is in force",
    follows="Only Posthouse's own traffic gets onto the line, and what `firewall.forward` names.",
)
FIREWALL_CHANGED = Event(
    "firewall-changed",
    "400f0b2c14944caeb617fa343a293de4",
    WARNING,
    "something else has changed the firewall's table; it is loaded anew",
    follows="It is in force again at once.",
    action="Find out what did.",
)
FIREWALL_FAILED = Event(
    "firewall-failed",
    "72f059bbf74b4172aaf2da6aac912b37",
    WARNING,
    "the firewall can't be loaded: {why}; no call is made",
    follows="No call is made: else anybody on the LAN could use the line.",
    action="Install nftables, give Posthouse CAP_NET_ADMIN. It is tried again each minute.",
)
FORWARDING_OFF = Event(
    "forwarding-off",
    "eb061e28dabe4e7bb75eba732adbc8f0",
    WARNING,
    "the host does not forward packets ({why}): firewall.forward lets nobody onto the line",
    follows="Posthouse's own calls are not concerned.",
    action="Set net.ipv4.ip_forward = 1 in /etc/sysctl.d.",
)
DNSMASQ_STARTED = Event(
    "dnsmasq-started",
    "a9b3449c2108413683bcee9d50ad5d6f",
    INFO,
    "DHCP and DNS for {interfaces}",
    follows="Machines on the LAN get addresses and the site's names.",
)
DNSMASQ_FAILED = Event(
    "dnsmasq-failed",
    "4386cc81c89845a182da30d8641975aa",
    WARNING,
    "no DHCP and DNS for {interfaces}, tried again: {why}",
    follows="New machines on the LAN get no address.",
    action="Is dnsmasq installed, and does nothing else hold port 53 or 67 there?",
)
IMAP_STARTED = Event(
    "imap-started",
    "db452e9d45cc40c88c6843053aa003fe",
    INFO,
    "IMAP for the LAN by Dovecot {version} on {addresses}",
    follows="Mail programs read the mailboxes by IMAP.",
)
SSH_STARTED = Event(
    "ssh-started",
    "bd138063d0d64be1bfd484901573c3ba",
    INFO,
    "the console over ssh for {user} on {addresses}, host key {host_key}",
    follows="Who knows the administrator's password gets to the console from the LAN.",
)
SSH_FAILED = Event(
    "ssh-failed",
    "d7f684eb5d01491d9d378d10dccd3156",
    WARNING,
    "no console over ssh on {addresses}, tried again: {why}",
    follows="The serial console and everything else go on.",
    action="Does nothing else hold port 22 there? journalctl -u posthouse-ssh says more.",
)
IMAP_FAILED = Event(
    "imap-failed",
    "9a33edb37a974063853c729bf04321ce",
    WARNING,
    "no IMAP by Dovecot {version} on {addresses}, tried again: {why}",
    follows="Mail programs that read by IMAP see nothing; POP3 goes on.",
    action="Is Dovecot installed (dovecot-imapd), and does nothing else hold port 143 or 993 there?",
)
