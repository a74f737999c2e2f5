"""Pure. Pins: our reader of certificates against a library's, and against nonsense."""

from __future__ import annotations

import contextlib
import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.coordinator.tls import make_certificate, pin_of
from meshnet.errors import BadInput
from meshnet.wire.pin import check_pin, spki_pin

KEYS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
}


def certificate(kind: str, common_name: str, names: list[str], serial: int) -> x509.Certificate:
    key = KEYS[kind]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
    )
    if names:
        san = x509.SubjectAlternativeName([x509.DNSName(text) for text in names])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, None if kind == "ed25519" else hashes.SHA256())


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(KEYS)),
    st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=16),
    st.lists(st.from_regex(r"\A[a-z]{1,30}\.example\Z"), max_size=20),
    st.integers(1, 1 << 158),
)
def test_the_pin_is_what_a_library_computes(
    kind: str, common_name: str, names: list[str], serial: int
) -> None:
    made = certificate(kind, common_name, names, serial)
    spki = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (
        spki_pin(made.public_bytes(serialization.Encoding.DER)) == hashlib.sha256(spki).hexdigest()
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(BadInput):
        assert len(check_pin(spki_pin(data))) == 64


@given(st.integers(0, 250))
def test_a_certificate_cut_before_its_key_is_refused(length: int) -> None:
    der = certificate("rsa", "x", [], 1).public_bytes(serialization.Encoding.DER)
    with pytest.raises(BadInput):
        spki_pin(der[:length])


def test_a_coordinators_own_certificate_has_a_pin_and_a_new_one_another() -> None:
    pins = {pin_of(make_certificate()[1].decode()) for _ in range(2)}
    assert len(pins) == 2
