"""Events: the board's LEDs and its reset button."""

from __future__ import annotations

from appliance.events.event import INFO, WARNING, Event

BUTTON_PRESSED = Event(
    "button-pressed",
    "1343ab3a52e14b7b911d672e05a0d769",
    WARNING,
    "the reset button was held for {seconds} s: {action}",
    follows="The board restarts; after a factory reset everything that was configured and stored on it is gone.",
)
BUTTON_FAILED = Event(
    "button-failed",
    "772dc61020524e1495171b3f9ac0f5da",
    WARNING,
    "the reset button: {what}",
    follows="Everything else goes on; the button does nothing.",
    action="Restart by the power; a USB stick can order a factory reset.",
)
LED_CHANGED = Event(
    "led-changed",
    "41e983ad3a2a4e778afb0340b0ef67ef",
    INFO,
    "LED {led}: {pattern} ({what})",
    follows="It stays so until the next of these entries.",
)
LED_FAILED = Event(
    "led-failed",
    "5f4152c17e7d427cbfffb56f12cb4e42",
    WARNING,
    "LED {led} can't show {pattern}: {error}",
    follows="Everything else goes on; the LED shows what it showed before.",
    action="Look at `[leds]`, and at the LED under /sys/class/leds.",
    fold=("led", "error"),
)
