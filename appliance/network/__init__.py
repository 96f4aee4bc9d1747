"""The room of the host's own network: interfaces, DHCP as a client, DHCP and DNS for the LAN."""
