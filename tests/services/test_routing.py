"""Where mail goes and who may send it (DESIGN §2 Routing): tables."""

from __future__ import annotations

import pytest

from appliance.config.model import Alias, Mail, Site, Smarthost, User
from appliance.mail.routing import Refusal, Route, Router, bare_address

SITE = Site(name="harbour", domain="harbour.example")
USERS = (
    User(name="hanako", addresses=("hanako@harbour.example", "Hanako.Y@ISP.example")),
    User(name="taro", addresses=("taro@harbour.example", "müller@harbour.example")),
    User(name="bare"),
)
ALIASES = (
    Alias(address="office@harbour.example", to=("hanako", "taro@harbour.example", "boss@far.example")),
    Alias(address="all@harbour.example", to=("office@harbour.example", "bare")),
    Alias(address="hotline@isp.example", to=("taro",)),
    Alias(address="gone@harbour.example", to=("nobody@harbour.example",)),
    Alias(address="a@harbour.example", to=("b@harbour.example",)),
    Alias(address="b@harbour.example", to=("a+x@harbour.example", "hanako")),
    Alias(address="lists+news@harbour.example", to=("bare",)),
)
ISP = Smarthost(host="smtp.isp.example", senders=("*@isp.example", "*@*.isp.example"))
OTHER = Smarthost(host="mx.other.example", senders=("taro@harbour.example", "*@isp.example"))
LAST = Smarthost(host="last.example")


def router(unknown: str = "reject", postmaster: str = "", smarthost: tuple[Smarthost, ...] = (ISP, OTHER)) -> Router:
    return Router(SITE, Mail(unknown=unknown, postmaster=postmaster, alias=ALIASES, smarthost=smarthost), USERS)


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        ("Hanako@Harbour.Example", "hanako@harbour.example"),
        ("hanako+shop@harbour.example", "hanako@harbour.example"),
        ("hanako+a+b@harbour.example", "hanako@harbour.example"),
        ("+tag@harbour.example", "+tag@harbour.example"),
        ("STRASSE@x", "strasse@x"),
        ("straße@x", "strasse@x"),
        ("a@b@c", "a@b@c"),
        ("postmaster", "postmaster"),
        ('"hanako"@harbour.example', "hanako@harbour.example"),
        ('"Han\\ako+x"@harbour.example.', "hanako@harbour.example"),
        ('"Postmaster"', "postmaster"),
        ('"han ako"@harbour.example', '"han ako"@harbour.example'),  # these quotes mean something
        ('"han@ako"@harbour.example', '"han@ako"@harbour.example'),
        ('""@harbour.example', '""@harbour.example'),
        ('"hanako@harbour.example', '"hanako@harbour.example'),
    ],
)
def test_bare_address(address: str, bare: str) -> None:
    assert bare_address(address) == bare


@pytest.mark.parametrize(
    ("address", "users", "remote"),
    [
        ("hanako@harbour.example", ["hanako"], []),
        ("HANAKO@HARBOUR.EXAMPLE", ["hanako"], []),
        ("hanako+bills@harbour.example", ["hanako"], []),
        ("hanako.y@isp.example", ["hanako"], []),  # whatever its domain
        ("MÜLLER+x@harbour.example", ["taro"], []),
        ("bare@harbour.example", ["bare"], []),  # no addresses: by the name
        ('"hanako.y"@isp.example', ["hanako"], []),
        ("hanako.y@isp.example.", ["hanako"], []),
        ('"some body"@isp.example.', [], ['"some body"@isp.example.']),
        ("other@isp.example", [], ["other@isp.example"]),
        ("Some.Body+x@Far.Example", [], ["Some.Body+x@Far.Example"]),  # goes out as it came
        ("x@[192.0.2.1]", [], ["x@[192.0.2.1]"]),
        ("office@harbour.example", ["hanako", "taro"], ["boss@far.example"]),
        ("Office+x@Harbour.example", ["hanako", "taro"], ["boss@far.example"]),
        ("all@harbour.example", ["hanako", "taro", "bare"], ["boss@far.example"]),
        ("hotline@isp.example", ["taro"], []),
        ("postmaster", ["hanako"], []),  # the first user, where none is named
        ("PostMaster@harbour.example", ["hanako"], []),
        ("postmaster@far.example", [], ["postmaster@far.example"]),
    ],
)
def test_route(address: str, users: list[str], remote: list[str]) -> None:
    assert router().route(address) == Route(tuple(users), tuple(remote))


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("nobody@harbour.example", "5.1.1"),
        ("hanako@HARBOUR.example.harbour.example", None),
        ("gone@harbour.example", "5.1.1"),
        ("a@harbour.example", "5.4.6"),
        ("b+y@harbour.example", "5.4.6"),
        ("nobody", "5.1.1"),
        ("nobody@harbour.example.", "5.1.1"),
    ],
)
def test_refused(address: str, status: str | None) -> None:
    route = router().route(address)
    if status is None:
        assert isinstance(route, Route)
    else:
        assert isinstance(route, Refusal)
        assert (route.code, route.status) == (550, status)


@pytest.mark.parametrize(
    ("unknown", "route"),
    [("taro", Route(("taro",))), ("upstream", Route((), ("nobody@harbour.example",)))],
)
def test_unknown_addresses(unknown: str, route: Route) -> None:
    r = router(unknown)
    assert r.route("nobody@harbour.example") == route
    assert r.route("gone@harbour.example") == route  # an alias that leads to one
    assert r.route("hanako@harbour.example") == Route(("hanako",))
    assert r.route("postmaster@harbour.example") == Route(("hanako",))


def test_a_named_postmaster() -> None:
    assert router(postmaster="taro").route("postmaster") == Route(("taro",))


def test_without_users_nobody_is_postmaster() -> None:
    assert isinstance(Router(SITE, Mail(), ()).route("postmaster"), Refusal)


@pytest.mark.parametrize(
    ("user", "sender", "may"),
    [
        ("hanako", "hanako@harbour.example", True),
        ("hanako", "Hanako.Y@Isp.Example", True),
        ("hanako", "hanako+list@harbour.example", True),
        ("hanako", "", True),  # <>
        ("hanako", "taro@harbour.example", False),
        ("hanako", "hanako@far.example", False),
        ("hanako", "office@harbour.example", False),
        ("bare", "bare@harbour.example", True),
        ("nobody", "nobody@harbour.example", False),
    ],
)
def test_may_send_as(user: str, sender: str, may: bool) -> None:
    assert router().may_send_as(user, sender) is may


def test_user_of() -> None:
    r = router()
    assert r.user_of("HANAKO.Y+x@isp.example") == "hanako"
    assert r.user_of("office@harbour.example") == ""
    assert r.user_of("") == ""


@pytest.mark.parametrize(
    ("sender", "hosts"),
    [
        ("hanako.y@isp.example", ["smtp.isp.example", "mx.other.example"]),
        ("X@ISP.EXAMPLE", ["smtp.isp.example", "mx.other.example"]),
        ("x@mail.isp.example", ["smtp.isp.example"]),
        ("taro@harbour.example", ["mx.other.example"]),
        ("taro+x@harbour.example", []),
        ("hanako@harbour.example", []),
        ("", []),
    ],
)
def test_smarthosts(sender: str, hosts: list[str]) -> None:
    assert [h.host for h in router().smarthosts(sender)] == hosts


def test_a_star_carries_everything() -> None:
    r = router(smarthost=(ISP, LAST))
    assert [h.host for h in r.smarthosts("")] == ["last.example"]
    assert [h.host for h in r.smarthosts("a@isp.example")] == ["smtp.isp.example", "last.example"]


def test_two_users_with_one_address_are_the_first_ones() -> None:
    users = (User(name="one", addresses=("x@harbour.example",)), User(name="two", addresses=("X@harbour.example",)))
    assert Router(SITE, Mail(), users).route("x@harbour.example") == Route(("one",))


def test_an_alias_with_a_tag_of_its_own() -> None:
    """Tags are no part of any address: such an alias is that of all its tags."""
    assert router().route("lists+other@harbour.example") == Route(("bare",))


@pytest.mark.parametrize(
    ("sender", "may"),
    [("camera@isp.example", True), ("camera@far.example", False), ("hanako@harbour.example", False), ("", True)],
)
def test_senders_without_a_login(sender: str, may: bool) -> None:
    assert router().may_send_without_login(sender) is may
    assert router(smarthost=()).may_send_without_login(sender)  # a site of local mail alone
