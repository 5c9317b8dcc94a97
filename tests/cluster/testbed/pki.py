"""Certificates and kubeconfigs of a cluster that lives for a test run. Clients are told apart by their certificates."""

from __future__ import annotations

import ipaddress
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey
VALID = timedelta(days=30)


class Authority:
    """Signs certificates, and writes them where the programs look for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("serinus-testbed")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = _builder(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "ca.crt", self._certificate.public_bytes(Encoding.PEM))

    def server(self, name: str, hosts: list[str], addresses: list[str]) -> None:
        """`NAME.crt` and `NAME.key` of a server that is reached by these names and addresses."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        self._sign(name, builder, key, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name: str, user: str, *groups: str, server: str) -> Path:
        """A kubeconfig with which a user with groups talks to a server; its path."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._sign(name, _builder(_name(user, *groups), self._name, key), key, ExtendedKeyUsageOID.CLIENT_AUTH)
        path = self._folder / f"{name}.kubeconfig"
        read = {each: b64encode((self._folder / each).read_bytes()).decode() for each in _files(name)}
        authority, certificate, secret = read.values()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": {"client-certificate-data": certificate, "client-key-data": secret}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": name}}],
            "current-context": "testbed",
        }
        _write(path, json.dumps(document).encode())
        return path

    def signing_keys(self, name: str) -> None:
        """`NAME.key` and `NAME.pub`, with which tokens are signed and verified."""
        key = ec.generate_private_key(ec.SECP256R1())
        _write(self._folder / f"{name}.key", _private(key))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _write(self._folder / f"{name}.pub", public)

    def _sign(self, name: str, builder: x509.CertificateBuilder, key: Key, use: x509.ObjectIdentifier) -> None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write(self._folder / f"{name}.crt", certificate.public_bytes(Encoding.PEM))
        _write(self._folder / f"{name}.key", _private(key))


def _files(name: str) -> list[str]:
    return ["ca.crt", f"{name}.crt", f"{name}.key"]


def _name(user: str, *groups: str) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + VALID)


def _private(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
