"""Driver. The coordinator's TLS key and certificate: self-made, long-lived, known by its pin.

Nodes trust the key by its SHA-256 and look at nothing else in the certificate, so no authority is
needed and nothing runs out. `cryptography` is imported only when a certificate is made.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from meshnet.wire.pin import spki_pin

YEARS = 100


def make_certificate() -> tuple[bytes, bytes]:
    """Return a new P-256 key and a certificate for it, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meshnet coordinator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)


def pin_of(certificate_pem: str) -> str:
    """Return the pin of a PEM certificate."""
    return spki_pin(ssl.PEM_cert_to_DER_cert(certificate_pem))


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context that speaks TLS 1.2 and later with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context
