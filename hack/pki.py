"""Keys and certificates for local clusters and servers. Each has its own CA, which is deleted with it.

It makes both kinds of certificates that clusters have: with key identifiers, like kubeadm's, and without, as on some
EKS, GKE and k3s clusters. Go takes either; Python 3.13 refuses the second unless told not to (VERIFY_X509_STRICT).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

LIFETIME = timedelta(days=3650)
"""Longer than any local cluster lives, so that nobody meets an expired certificate on a laptop."""

SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its private key, both in PEM format."""

    certificate: bytes
    key: bytes


def make_authority(*, key_identifiers: bool = True) -> Pair:
    """A new CA that may sign servers and clients, and no further CAs. They have key identifiers if it has."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local-cluster-ca")])
    builder = _builder(name, issuer=name, key=key, key_identifiers=key_identifiers)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Pair(certificate=builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key=_pem(key))


def make_server(authority: Pair, *, addresses: Sequence[str]) -> Pair:
    """A serving certificate for the API server's usual names and these IP addresses."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in SERVER_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    return _issue(authority, subject=subject, usage=ExtendedKeyUsageOID.SERVER_AUTH, names=names)


def make_client(authority: Pair, *, user: str, groups: Sequence[str]) -> Pair:
    """A client certificate. Kubernetes takes the user from the common name, and the groups from the organisations."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])
    return _issue(authority, subject=subject, usage=ExtendedKeyUsageOID.CLIENT_AUTH, names=[])


def write_token_keys(directory: Path) -> None:
    """Write sa.key and sa.pub; the API server signs and checks ServiceAccount tokens with them (RS256, as kubeadm)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(directory / "sa.key", _pem(key))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "sa.pub").write_bytes(public)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can ever read, from the first byte on."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def _issue(authority: Pair, *, subject: x509.Name, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]) -> Pair:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not the kind that make_authority makes")
    key = ec.generate_private_key(ec.SECP256R1())
    key_identifiers = any(one.oid == ExtensionOID.SUBJECT_KEY_IDENTIFIER for one in issuer.extensions)
    builder = _builder(subject, issuer=issuer.subject, key=key, key_identifiers=key_identifiers)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if key_identifiers:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(certificate=builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM), key=_pem(key))


def _builder(
    subject: x509.Name, *, issuer: x509.Name, key: PrivateKey, key_identifiers: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks of containers on the same machine may lag
        .not_valid_after(now + LIFETIME)
    )
    if not key_identifiers:
        return builder
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
