"""A TLS port in front of a server, and the certificates for it: the server of the tests speaks none itself."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


class Certificate(NamedTuple):
    """Files, in PEM."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates. ``file`` is what those who trust it are given."""

    def __init__(self, directory: Path, name: str) -> None:
        self.file = directory / f"{name}.pem"
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        unsigned = self._unsigned(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        own = unsigned.sign(self._key, hashes.SHA256())
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _unsigned(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, valid_for: timedelta = timedelta(days=1)
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + valid_for)
        )

    def sign(
        self, name: str, *, address: str = HOST, host: str | None = None, valid_for: timedelta = timedelta(days=1)
    ) -> Certificate:
        """A certificate for a server at an IP address, or of a host name, or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = self._unsigned(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, valid_for=valid_for)
        at = x509.DNSName(host) if host else x509.IPAddress(ipaddress.ip_address(address))
        names = x509.SubjectAlternativeName([at])
        signed = unsigned.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        files = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        files.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@contextlib.asynccontextmanager
async def tls_in_front_of(
    server: Path, certificate: Certificate, *, port: int = 0, clients_of: Authority | None = None
) -> AsyncIterator[int]:
    """The port, while the block runs. With ``clients_of`` a client needs a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients_of.file if clients_of else None)
    context.load_cert_chain(certificate.cert, certificate.key)
    if clients_of:
        context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(_forward(server, reader, writer)))

    listening = await asyncio.start_server(accept, HOST, port, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(server: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    up_reader, up_writer = await asyncio.open_unix_connection(server)
    pumps = [asyncio.create_task(_pump(reader, up_writer)), asyncio.create_task(_pump(up_reader, writer))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (writer, up_writer):
            each.transport.abort()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
