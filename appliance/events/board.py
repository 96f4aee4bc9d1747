"""Events: the board's LEDs and its reset button."""

from __future__ import annotations

from appliance.events.event import INFO, WARNING, Event

BUTTON_PRESSED = Event("button-pressed", WARNING, "the reset button was held for {seconds} s: {action}")
BUTTON_FAILED = Event(
    "button-failed", WARNING, "the reset button: {what}", "Restart by the power; a USB stick can order a factory reset."
)
LED_CHANGED = Event("led-changed", INFO, "LED {led}: {pattern} ({what})")
LED_FAILED = Event(
    "led-failed",
    WARNING,
    "LED {led} can't show {pattern}: {error}",
    "Look at `[leds]`, and at the LED under /sys/class/leds.",
)
