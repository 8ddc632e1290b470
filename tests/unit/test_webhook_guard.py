"""Which URL a webhook may be sent to: what leads inside, or could be read in two ways, is refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mm_metering.errors import InvalidInput, UrlRefused
from mm_metering.webhooks import guard
from mm_metering.webhooks.guard import (
    GLOBAL_IPV6,
    HOLDS_IPV4,
    SPECIAL_IPV4,
    SPECIAL_IPV6,
    Rules,
    check_address,
    check_url,
    resolve,
    system_look_up,
)
from tests.webhook_urls import HOSTS, PUBLIC, URLS

RULES = Rules()
SPECIAL: tuple[guard.Network, ...] = (*SPECIAL_IPV4, *SPECIAL_IPV6)


def refusal(url: str, rules: Rules = RULES) -> str | None:
    try:
        check_url(url, rules)
    except UrlRefused as error:
        return str(error)
    return None


def is_public(address: str) -> bool:
    try:
        check_address(address, RULES)
    except UrlRefused:
        return False
    return True


CASES = [(f"https://{host}/", said) for said, hosts in HOSTS.items() for host in hosts]
CASES += [(url, said) for said, urls in URLS.items() for url in urls]


def test_there_are_enough_cases_and_each_stands_once() -> None:
    assert len(CASES) == len({url for url, _ in CASES}) >= 300


@pytest.mark.parametrize("said", sorted({said for _, said in CASES}))
def test_it_is_refused_and_says_why(said: str) -> None:
    wrong = {url[:80]: refusal(url) for url, why in CASES if why == said and said not in (refusal(url) or "")}
    assert wrong == {}


def test_a_public_url_is_read_into_its_parts() -> None:
    for url, parts in PUBLIC.items():
        target = check_url(url, RULES)
        assert (target.host, target.port, target.path, target.authority) == parts
        assert target.path == "/" or target.path not in repr(target)


def test_rules_open_what_they_name_and_nothing_else() -> None:
    inside = Rules(allow_http=True, ports=(80, 9000), allow_networks=("10.1.0.0/16", "fd00::/8"))
    taken = [
        "http://10.1.2.3",
        "http://[fd00::1]:9000/",
        "http://receiver/",
        "http://receiver1:9000/",
        "http://a.internal/",
    ]
    assert [url for url in taken if refusal(url, inside)] == []
    refused = ["http://10.2.0.1/", "http://[fe80::1]/", "https://company.com/", "http://127.0.0.1/", "http://10.1/"]
    assert [url for url in refused if not refusal(url, inside)] == []
    assert check_url("http://receiver1:9000/", inside).is_address is False
    assert check_url("http://10.1.2.3:9000/", inside).authority == "10.1.2.3:9000"
    assert check_url("http://[::ffff:10.1.2.3]/", inside).is_address


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"ports": (0,)}, "ports: 0"),
        ({"ports": (65_536,)}, "ports: 65536"),
        ({"allow_networks": ("10.0.0.1/8",)}, "allow_networks: 10.0.0.1/8 has host bits"),
        ({"allow_networks": ("inside",)}, "allow_networks: 'inside'"),
    ],
)
def test_rules_that_are_none_are_refused(rules: dict[str, tuple[int | str, ...]], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Rules(**rules)  # type: ignore[arg-type]


def test_special_networks_are_refused_from_their_first_address_to_their_last() -> None:
    for net in SPECIAL:
        assert not is_public(str(net[0]))
        assert not is_public(str(net[-1]))
        for outside in (int(net[0]) - 1, int(net[-1]) + 1):
            if 0 <= outside < 2**net.max_prefixlen:
                address = type(net[0])(outside)
                in_another = any(address in each for each in SPECIAL)
                is_global = address.version == 4 or address in GLOBAL_IPV6
                assert is_public(str(address)) is (is_global and not in_another)


@given(st.one_of(st.ip_addresses(), *(st.ip_addresses(network=net) for net in (*SPECIAL, *HOLDS_IPV4, GLOBAL_IPV6))))
def test_what_is_public_here_is_global_for_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    if is_public(str(address)):
        inner = IPv4Address(int(address) & 0xFFFF_FFFF) if any(address in each for each in HOLDS_IPV4) else address
        assert inner.is_global
        assert not inner.is_multicast


@pytest.mark.parametrize("scoped", ["fe80::1%eth0", "2606:4700::1111%eth0", "::1%lo"])
def test_an_address_of_one_link_is_refused(scoped: str) -> None:
    assert not is_public(scoped)


FULL_WIDTH_ZERO, ARABIC_ZERO, IDEOGRAPHIC_DOT, FULL_WIDTH_DOT = "\uff10", "\u0660", "\u3002", "\uff0e"
FORMS = ("{}", "0x{:x}", "0X{:X}", "0{:o}", "00{:o}", "0x00{:x}")


@st.composite
def spellings(draw: st.DrawFn) -> tuple[IPv4Address, str]:
    """An IPv4 address and one of the texts that some reader takes for it."""
    address = IPv4Address(draw(st.integers(0, 2**32 - 1) | st.sampled_from([int(net[-1]) for net in SPECIAL_IPV4])))
    leading = draw(st.integers(0, 3))
    parts = [*address.packed[:leading], int.from_bytes(address.packed[leading:])]
    text = ".".join(draw(st.sampled_from(FORMS)).format(part) for part in parts)
    zero = draw(st.sampled_from(["0", "0", FULL_WIDTH_ZERO, ARABIC_ZERO]))
    digits = {ord("0") + n: chr(ord(zero) + n) for n in range(10)}
    dot = draw(st.sampled_from([".", ".", IDEOGRAPHIC_DOT, FULL_WIDTH_DOT, "%2e"]))
    end = draw(st.sampled_from(["", "", "."]))
    return address, text.translate(digits).replace(".", dot) + end


@given(spellings())
@example((IPv4Address("8.8.8.8"), "8.8.8.8"))
@example((IPv4Address("127.0.0.1"), "127.0.0.1"))
@example((IPv4Address("127.0.0.1"), "0x7f.1"))
@example((IPv4Address("0.0.0.0"), "0"))
def test_no_spelling_of_an_ipv4_address_is_taken_but_the_plain_one(case: tuple[IPv4Address, str]) -> None:
    address, text = case
    is_taken = refusal(f"https://{text}/") is None
    assert is_taken is (text == str(address) and is_public(str(address)))


@given(st.ip_addresses(v=4), st.sampled_from(HOLDS_IPV4))
def test_an_ipv4_address_within_an_ipv6_one_gets_its_own_verdict(address: IPv4Address, net: guard.Network) -> None:
    held = IPv6Address(int(net[0]) + int(address))
    assert is_public(str(held)) is is_public(str(address))
    assert (refusal(f"https://[{held}]/") is None) is is_public(str(address))


@given(st.text(max_size=40) | st.from_regex(r"https?://[^/]{0,30}(:\d{1,6})?/?.{0,10}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"https://{text}/"):
        if refusal(url) is None:
            target = check_url(url, RULES)
            assert f"{target.host}{target.path}".isascii()
            assert target.host == target.host.lower()
            assert target.port in RULES.ports
            assert check_url(f"https://{target.authority}{target.path}", RULES) == target


def found(*addresses: str) -> guard.LookUp:
    async def look_up(host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("company.com", 443)
        return addresses

    return look_up


TARGET = check_url("https://company.com/", RULES)


async def test_every_address_of_a_name_must_be_public_and_none_is_named() -> None:
    assert await resolve(TARGET, RULES, found("1.1.1.1", "2606:4700::1", "1.1.1.1")) == ("1.1.1.1", "2606:4700::1")
    for inside in ("10.1.2.3", "::1", "fe80::1%eth0", "::ffff:10.1.2.3"):
        for addresses in ([inside], ["1.1.1.1", inside], [inside, "1.1.1.1"]):
            with pytest.raises(UrlRefused, match="not public") as refused:
                await resolve(TARGET, RULES, found(*addresses))
            assert inside not in str(refused.value)


async def test_an_address_needs_no_look_up() -> None:
    assert await resolve(check_url("https://1.1.1.1/", RULES), RULES, found()) == ("1.1.1.1",)
    assert await resolve(check_url("https://[2606:4700::1]/", RULES), RULES, found()) == ("2606:4700::1",)


async def test_a_name_server_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(guard, "LOOK_UP_S", 0.01)
    with pytest.raises(socket.gaierror, match=r"within 0\.01 s"):
        await resolve(TARGET, RULES, hangs)


async def test_a_name_that_leads_inside_is_refused_as_the_system_resolves_it() -> None:
    assert "127.0.0.1" in await system_look_up("localhost", 443)
    elsewhere = Rules(allow_networks=("10.0.0.0/8",))
    with pytest.raises(UrlRefused, match="not public"):
        await resolve(check_url("https://localhost/", elsewhere), elsewhere)
