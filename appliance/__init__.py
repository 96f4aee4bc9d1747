"""Posthouse: a gateway for sites whose only line out is slow, metered and comes and goes.

`docs/architecture.md` names the rooms of this package and what may import what.
"""

__version__ = "0.1.0"
