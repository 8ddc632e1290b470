"""What a Redis server says of itself, as findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mm_metering.core.findings import Finding, clock_finding


def facts_of(info: bytes) -> Mapping[str, str]:
    """The reply of INFO by name."""
    return dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)


def findings(where: str, facts: Mapping[str, str], offset_s: float) -> Iterator[Finding]:
    """How it keeps what is not billed yet. ``offset_s``: how far its clock is ahead of the host's."""
    yield _eviction(where, facts.get("maxmemory_policy", ""))
    if evicted := int(facts.get("evicted_keys", "0")):
        yield Finding("warn", f"{where} has evicted {evicted:,} keys since it started")
    yield from _persistence(where, facts)
    if facts.get("role") == "slave":
        yield Finding("FAIL", f"{where} is a replica and takes no usage: name its master in the counters URL")
    elif facts.get("role") == "master":
        yield Finding("ok", f"{where} is a master with {facts.get('connected_slaves', '0')} replicas")
    yield clock_finding(where, offset_s)


def _eviction(where: str, policy: str) -> Finding:
    if not policy:
        return Finding("warn", f"{where} does not say its maxmemory-policy; it must be noeviction")
    if policy == "noeviction":
        return Finding("ok", f"{where} evicts nothing")
    if policy.startswith("volatile-"):
        lost = "may drop tenants' counters, which then admit more until they are loaded again"
        return Finding("warn", f"{where} has maxmemory-policy {policy} and {lost}; set it to noeviction")
    lost = "may drop usage that is not billed yet"
    return Finding("FAIL", f"{where} has maxmemory-policy {policy} and {lost}; set it to noeviction")


def _persistence(where: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if facts.get(name, "ok") != "ok":
            yield Finding("FAIL", f"{where} could not write its {what}: look for room on its disk")
    if facts.get("aof_enabled") == "1":
        yield Finding("ok", f"{where} keeps an append-only file")
    else:
        kept = "what is not folded when it restarts is in the apps' journals alone"
        yield Finding("warn", f"{where} keeps no append-only file: {kept}")
