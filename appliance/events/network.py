"""Events: the host's network."""

from __future__ import annotations

from appliance.events.event import INFO, WARNING, Event

INTERFACE_SET_UP = Event("interface-set-up", INFO, "{interface}: set up: {what}")
INTERFACE_PUT_RIGHT = Event(
    "interface-put-right",
    WARNING,
    "{interface}: something else changed it; put right: {what}",
    "If it repeats, find the other program that manages the device and take it away from there.",
)
INTERFACE_STATE = Event("interface-state", INFO, "{interface}: {device} is {state}")
INTERFACE_FAILED = Event(
    "interface-failed",
    WARNING,
    "{interface}: not as configured, tried again: {why}",
    "Change the interface's configuration; `Operation not permitted`: Posthouse needs CAP_NET_ADMIN.",
)
DEVICE_ABSENT = Event(
    "device-absent", WARNING, "{interface}: the device {device} is not there", "Nothing, if it is to come later."
)
DEVICE_THERE = Event("device-there", INFO, "{interface}: the device {device} is there")
LEASE_GOT = Event(
    "lease-got", INFO, "{interface}: {address} from the DHCP server {server} for {seconds} s, with {routes}"
)
LEASE_LOST = Event("lease-lost", WARNING, "{interface}: the lease of {address} has ended")
DHCP_CLIENT_FAILED = Event(
    "dhcp-client-failed",
    WARNING,
    "{interface}: no lease, asked again: {why}",
    "Look for the DHCP server; `Operation not permitted`: udhcpc needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.",
)
FIREWALL_LOADED = Event("firewall-loaded", INFO, "the firewall is in force")
FIREWALL_CHANGED = Event(
    "firewall-changed",
    WARNING,
    "something else has changed the firewall's table; it is loaded anew",
    "Find out what did.",
)
FIREWALL_FAILED = Event(
    "firewall-failed",
    WARNING,
    "the firewall can't be loaded: {why}; no call is made",
    "Install nftables, give Posthouse CAP_NET_ADMIN. It is tried again each minute.",
)
FORWARDING_OFF = Event(
    "forwarding-off",
    WARNING,
    "the host does not forward packets ({why}): firewall.forward lets nobody onto the line",
    "Set net.ipv4.ip_forward = 1 in /etc/sysctl.d.",
)
DNSMASQ_STARTED = Event("dnsmasq-started", INFO, "DHCP and DNS for {interfaces}")
DNSMASQ_FAILED = Event(
    "dnsmasq-failed",
    WARNING,
    "no DHCP and DNS for {interfaces}, tried again: {why}",
    "Is dnsmasq installed, and does nothing else hold port 53 or 67 there?",
)
