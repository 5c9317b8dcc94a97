"""Asking a Prometheus that wants a token or has an authority of its own, and what is none."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self
from wsgiref.simple_server import make_server

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serinus.core.errors import EngineError
from serinus.engines.ports import free_ports
from serinus.engines.prometheus import Connection, Prometheus
from tests.support_metrics import Exporter, Quiet, Server, scraping

pytestmark = pytest.mark.timeout(300)


class Guarded:
    """An address where Prometheus answers only who brings the token, as behind an authenticating proxy."""

    def __init__(self, server: Server, token: str) -> None:
        self.token = token
        self._behind = server.url
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}"
        self._server = make_server("127.0.0.1", port, self._answer, handler_class=Quiet)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {self.token}":
            start("401 Unauthorized", [])
            return [b"who are you?"]
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        kind = {"content-type": environ["CONTENT_TYPE"]}
        answer = httpx.post(self._behind + environ["PATH_INFO"], content=body, headers=kind)
        start(f"{answer.status_code} Whatever", [("content-type", "application/json")])
        return [answer.content]


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine's own address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prometheus")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    written = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(written)
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.prometheus
def test_a_token_is_read_again_for_each_question(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with Exporter() as exporter, scraping(tmp_path, exporter) as behind, Guarded(behind, "first") as guarded:
        server = Prometheus(Connection(guarded.url, token_file=file))
        moment = datetime.now(UTC)
        with pytest.raises(EngineError, match="cannot read the token"):
            server.instant("vector(1)", moment)
        for token in ("first", "second"):
            file.write_text(token + "\n")
            guarded.token = token
            assert [each.value for each in server.instant("vector(1)", moment)] == [1]
        file.write_text("geheim")
        with pytest.raises(EngineError, match="refuses with 401") as caught:
            server.instant("vector(1)", moment)
        assert "geheim" not in str(caught.value)


@pytest.mark.prometheus
def test_an_authority_that_the_system_does_not_know_can_be_named(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    config = tmp_path / "web.yml"
    config.write_text(f"tls_server_config: {{cert_file: {certificate}, key_file: {key}}}\n")
    with scraping(tmp_path, options=(f"--web.config.file={config}",)) as server:
        url = server.url.replace("http://", "https://")
        moment = datetime.now(UTC)
        assert Prometheus(Connection(url, ca_file=certificate)).instant("1", moment)[0].value == 1
        with pytest.raises(EngineError, match="does not answer"):
            Prometheus(Connection(url)).instant("1", moment)


def test_what_is_no_prometheus_says_so() -> None:
    with Exporter() as exporter, pytest.raises(EngineError, match="gave no answer of its API"):
        Prometheus(Connection(exporter.address)).instant("up", datetime.now(UTC))
