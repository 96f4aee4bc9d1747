"""Events: the image, its slots and updates; told by its own programs (`host.tell`)."""

from __future__ import annotations

from appliance.events.event import INFO, WARNING, Event

UPDATE_INSTALLED = Event(
    "update-installed",
    "732a55faceb14f0e8a50ca8a06bc9a49",
    INFO,
    "the update to {version} is installed into slot {slot}",
    follows="It is tried at the next start. If it does not get healthy this slot comes back by itself.",
    action="Restart when it suits: `systemctl reboot`.",
)
UPDATE_REFUSED = Event(
    "update-refused",
    "682c489c19354c25a0f452745a223c57",
    WARNING,
    "no update is installed: {why}",
    follows="Everything stays as it was.",
    action="Get the file again, or this board's. `posthouse update --allow-older` takes an older one.",
)
UPDATE_GOOD = Event(
    "update-good",
    "b074a93345024bd48dd9bfe1a106a0a9",
    INFO,
    "the update in slot {slot} is found good; whether it gets through on the line is unproven until its first call",
    follows="The board starts from this slot from now on.",
    action="`posthouse dial`, to see that it gets through.",
)
UPDATE_FALLEN_BACK = Event(
    "update-fallen-back",
    "5a83a5d7559f484fb3f525c05ff2bd89",
    WARNING,
    "the update in slot {slot} did not get healthy: slot {back} is back, and stays",
    follows="The board goes on as before the update.",
    action="`journalctl -b -1 -u posthouse` may have why; report it.",
)
SLOT_PASSED_OVER = Event(
    "slot-passed-over",
    "f20ae6254ec44981a09c19f8ced9e5ce",
    WARNING,
    "slot {slot} was started three times in vain: slot {back} runs in its place",
    follows="Slot {slot}, which had been good, is tried again at the next start.",
    action="The power was cut three times before it was found good, or the disk fails: `journalctl -b -1` may say.",
)
START_GOOD = Event(
    "start-good",
    "c6482378fa51484bb2955a8b2bdbb2cf",
    INFO,
    "this start of slot {slot} is found good",
    follows="The boot loader begins to count anew.",
)
START_IN_VAIN = Event(
    "start-in-vain",
    "2c8ceff61f21462285c7c0ff1014aafa",
    WARNING,
    "Posthouse is not ready: the boot loader counts this start of slot {slot} as one in vain",
    follows="A slot on trial is started again, and after three such starts the other one comes back. One that runs in "
    "the place of a slot that was started in vain gives way to that.",
    action="`systemctl status posthouse` and the journal of this start have why.",
)
