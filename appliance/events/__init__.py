"""THE table of events: what the journal can say of Posthouse, each with an id, a text and what to do. A leaf.

An event is emitted with `emit(EVENT, field=value, …)`; its text is made of the fields. Every string from
outside (modem, caller ID, SMTP, DNS, a peer) passes `clean` on its way. Passwords are never a field. The events
themselves stand in the modules here, by what they tell of, and are all names of this package.
"""

from appliance.events.board import *  # noqa: F403
from appliance.events.call import *  # noqa: F403
from appliance.events.event import Event as Event
from appliance.events.event import around as around
from appliance.events.event import emit as emit
from appliance.events.event import table as table
from appliance.events.event import trace as trace
from appliance.events.image import *  # noqa: F403
from appliance.events.mail import *  # noqa: F403
from appliance.events.network import *  # noqa: F403
from appliance.events.process import *  # noqa: F403
from appliance.events.relay import *  # noqa: F403
from appliance.events.text import clean as clean
