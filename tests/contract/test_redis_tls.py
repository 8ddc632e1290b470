"""``rediss://``: who the server is, is verified; an ACL user signs in; and a long reply comes whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.counters import START, Batch, Load, Reply
from mm_metering.backends.redis import RedisCounters
from mm_metering.errors import InvalidInput, StoreUnavailable
from mm_metering.gate.deadlines import Timing
from tests.redis_cluster import Node, free_ports, until
from tests.redis_server import RedisServer
from tests.tls_proxy import HOST, Authority, tls_in_front_of

USER, PASSWORD = "metering", "sesame-42"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(files: Path) -> Authority:
    return Authority(files, "authority")


@pytest.fixture
async def port(redis_server: RedisServer, authority: Authority) -> AsyncIterator[int]:
    async with tls_in_front_of(redis_server.socket, authority.sign("server")) as port:
        yield port


@pytest.fixture
def user(redis_server: RedisServer) -> Iterator[str]:
    redis_server.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~{mm:*}:*", "+@all")
    yield f"{USER}:{PASSWORD}"
    redis_server.command("ACL", "DELUSER", USER)


async def trouble(url: str) -> str:
    """What a first call says."""
    counters = RedisCounters(url, timeout_s=10)
    with pytest.raises(StoreUnavailable) as found:
        await counters.read(0, after=START, limit=1)
    await counters.aclose()
    assert PASSWORD not in str(found.value)
    return str(found.value)


async def test_a_long_reply_comes_whole(port: int, user: str, authority: Authority) -> None:
    """Longer than a TLS record, to a user with a password."""
    counters = RedisCounters(f"rediss://{user}@{HOST}:{port}?ssl_ca_certs={authority.file}", timeout_s=10)
    values = {f"ai/{n}@ds6k2o0": n for n in range(20_000)}
    assert await counters.open(0, seen=0, generation=1, grace_ms=0)
    load = Load("t", "1.1", START, values, {})
    assert isinstance(await counters.apply(0, Batch("p", 1, 1, 1_705_320_000_000_000, (load,))), Reply)
    assert await counters.counters(0, "t") == values
    await counters.aclose()


async def test_a_metering_counts_over_tls(port: int, user: str, authority: Authority) -> None:
    url = f"rediss://{user}@{HOST}:{port}?ssl_ca_certs={authority.file}"
    timing = Timing(decision_s=10, load_s=10)
    clock = FrozenClock("2024-01-15T12:00:00Z")
    async with Metering(counters=url, worker="inline", clock=clock, timing=timing) as metering:
        for _ in range(100):
            assert await metering.enforce_quota("org_123", "api_calls")
        assert not await metering.check_limit("org_123", "api_calls")
        assert (await metering.get_usage("org_123", "2024-01-15", "2024-01-15")).api_calls == 100


async def test_a_server_of_another_authority_is_refused(port: int, files: Path) -> None:
    other = Authority(files, "other")
    text = await trouble(f"rediss://u:{PASSWORD}@{HOST}:{port}?ssl_ca_certs={other.file}")
    assert "CERTIFICATE_VERIFY_FAILED" in text
    assert "?ssl_ca_certs=FILE" in text


async def test_a_server_of_no_known_authority_is_refused(port: int) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in await trouble(f"rediss://u:{PASSWORD}@{HOST}:{port}")


async def test_a_certificate_for_another_host_is_refused(redis_server: RedisServer, authority: Authority) -> None:
    async with tls_in_front_of(redis_server.socket, authority.sign("elsewhere", address="127.0.0.2")) as port:
        assert "IP address mismatch" in await trouble(f"rediss://{HOST}:{port}?ssl_ca_certs={authority.file}")


async def test_verification_can_be_given_up(port: int, user: str) -> None:
    counters = RedisCounters(f"rediss://{user}@{HOST}:{port}?ssl_cert_reqs=none", timeout_s=10)
    assert (await counters.read(0, after=START, limit=1)).generation == 0
    await counters.aclose()


async def test_a_wrong_password_is_said_without_it(port: int, user: str, authority: Authority) -> None:
    url = f"rediss://{user}-not@{HOST}:{port}?ssl_ca_certs={authority.file}"
    assert "check the user and the password" in await trouble(url)


async def test_a_client_with_a_certificate_is_let_in(redis_server: RedisServer, authority: Authority) -> None:
    own, client = authority.sign("verifying"), authority.sign("client")
    async with tls_in_front_of(redis_server.socket, own, clients_of=authority) as port:
        url = f"rediss://{HOST}:{port}?ssl_ca_certs={authority.file}"
        assert f"Redis at {HOST}:{port}" in await trouble(url)
        counters = RedisCounters(f"{url}&ssl_certfile={client.cert}&ssl_keyfile={client.key}", timeout_s=10)
        assert (await counters.read(0, after=START, limit=1)).generation == 0
        await counters.aclose()


@pytest.mark.parametrize("option", ["ssl_ca_certs=/no/such/file", "ssl_cert_reqs=maybe", "ssl_ciphers=none"])
def test_a_wrong_tls_option_is_said_at_once(option: str) -> None:
    with pytest.raises(InvalidInput, match="the URL"):
        RedisCounters(f"rediss://h?{option}")


async def test_the_authorities_are_read_once(
    port: int, user: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes longer than a decision, and every connection would."""
    counters = RedisCounters(f"rediss://{user}@{HOST}:{port}?ssl_ca_certs={authority.file}", timeout_s=10)
    monkeypatch.setattr("ssl.create_default_context", lambda *_: pytest.fail("read again"))
    assert (await counters.read(0, after=START, limit=1)).generation == 0
    await counters.aclose()


async def test_a_cluster_over_tls(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> None:
    """One node that owns all slots and tells its TLS port, as a server that speaks TLS itself does."""
    port, bus_port, tls_port = free_ports(3)
    announced = {"cluster-announce-ip": HOST, "cluster-announce-port": str(tls_port)}
    announced["cluster-announce-bus-port"] = str(bus_port)
    node = Node(tmp_path_factory.mktemp("node") / "0", port=port, bus_port=bus_port, options=announced)
    node.start()
    node.ok("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    until(lambda: node.knows(1), "the slots are served")
    async with tls_in_front_of(node.socket, authority.sign("node"), port=tls_port):
        counters = RedisCounters(f"rediss+cluster://{HOST}:{tls_port}?ssl_ca_certs={authority.file}", timeout_s=10)
        for shard in range(counters.shards):
            assert await counters.open(shard, seen=0, generation=1, grace_ms=0)
        await counters.aclose()
    node.kill()
