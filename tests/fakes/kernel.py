"""A kernel's devices in memory, with what the real one does by itself: connected routes, what a link loses that goes
down. `tests/interop/test_interfaces.py` shows the real one to be so.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from appliance.network.plan import (
    AddAddress,
    Address,
    AddRoute,
    Change,
    CreateBridge,
    DeleteBridge,
    Device,
    FreePort,
    Origin,
    RemoveAddress,
    RemoveRoute,
    Route,
    SeenAddress,
    SetMtu,
    SetUp,
    StopStp,
    TakePort,
)


class FakeKernel:
    """`settle.Kernel`. `refuses`: change -> the error that it ends with; `applied`: all that was asked for."""

    def __init__(self, *devices: Device) -> None:
        self.devices = {d.name: d for d in devices}
        self.refuses: dict[type[Change], int] = {}
        self.applied: list[Change] = []
        self._next_index = 100

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        pass

    # ---- as somebody with `ip` changes it
    def add(self, name: str, **fields: object) -> None:
        self._next_index += 1
        self.devices[name] = Device(self._next_index, name, carrier=True, **fields)  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        gone = self.devices.pop(name)
        for other in self.devices.values():
            if other.master == gone.index:
                self.change(other.name, master=0)

    def change(self, name: str, **fields: object) -> None:
        self.devices[name] = replace(self.devices[name], **fields)  # type: ignore[arg-type]

    def down(self, name: str) -> None:
        old = self.devices[name]
        kept = tuple(a for a in old.addresses if a.address.version == 4)
        self.change(name, up=False, addresses=kept, routes=())

    # ---- the contract
    def observe(self) -> Mapping[str, Device]:
        return dict(self.devices)

    def apply(self, change: Change) -> None:
        self.applied.append(change)
        if error := self.refuses.get(type(change)):
            raise OSError(error, "refused")
        if isinstance(change, CreateBridge):
            if change.device in self.devices:
                raise OSError(errno.EEXIST, "")
            self.add(change.device, kind="bridge")
            return
        if change.device not in self.devices:
            raise OSError(errno.ENODEV, "")
        device = self.devices[change.device]
        match change:
            case DeleteBridge():
                self.remove(device.name)
            case TakePort(bridge=bridge):
                if bridge not in self.devices:
                    raise OSError(errno.ENODEV, "")
                self.change(device.name, master=self.devices[bridge].index)
            case FreePort():
                self.change(device.name, master=0)
            case SetMtu(mtu=mtu):
                self.change(device.name, mtu=mtu)
            case StopStp():
                self.change(device.name, stp=False)
            case SetUp():
                routes = tuple(self._connected(a.address) for a in device.addresses if self._has_network(a.address))
                self.change(device.name, up=True, routes=routes)
            case AddAddress(address=address, lifetime_s=lifetime_s):
                self._add_address(device, SeenAddress(address, not lifetime_s))
            case RemoveAddress(address=address):
                self._remove_address(device, address)
            case AddRoute(route=route):
                self._add_route(device, route)
            case RemoveRoute(route=route):
                if route not in device.routes:
                    raise OSError(errno.ESRCH, "")
                self.change(device.name, routes=tuple(r for r in device.routes if r != route))
            case _:
                raise AssertionError(change)

    @staticmethod
    def _has_network(address: Address) -> bool:
        return address.network.prefixlen < address.max_prefixlen

    @staticmethod
    def _connected(address: Address) -> Route:
        return Route(address.network, None, 256 if address.version == 6 else 0, address.ip, Origin.KERNEL)

    def _add_address(self, device: Device, new: SeenAddress) -> None:
        others = tuple(a for a in device.addresses if a.address != new.address)
        routes = device.routes
        if device.up and self._has_network(new.address):
            routes = tuple(dict.fromkeys((*routes, self._connected(new.address))))
        self.change(device.name, addresses=(*others, new), routes=routes)

    def _remove_address(self, device: Device, address: Address) -> None:
        left = tuple(a for a in device.addresses if a.address != address)
        if len(left) == len(device.addresses):
            raise OSError(errno.EADDRNOTAVAIL, "")
        if not any(a.address.network == address.network for a in left):
            gone = address.network
            routes = tuple(
                r for r in device.routes if r.destination != gone and (r.gateway is None or r.gateway not in gone)
            )
            self.change(device.name, routes=routes)
        self.change(device.name, addresses=left)

    def _add_route(self, device: Device, route: Route) -> None:
        if not device.up:
            raise OSError(errno.ENETDOWN, "")
        if any((r.destination, r.metric) == (route.destination, route.metric) for r in device.routes):
            raise OSError(errno.EEXIST, "")
        reached = any(r.gateway is None and route.gateway in r.destination for r in device.routes if route.gateway)
        if route.gateway is not None and not reached:
            raise OSError(errno.ENETUNREACH, "")
        self.change(device.name, routes=(*device.routes, route))
