"""The terminal's own side, for any PC that runs Python: login, list, connect, forward. Knows nothing of the appliance's
rooms; speaks RELAY's protocol to one relay server and its own TLS to other terminals."""
