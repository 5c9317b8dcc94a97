"""Both sources of evidence against real metrics: one contract, then what only one of them can meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serinus.control.evidence import EvidenceSource, ScrapeSource
from serinus.control.prometheus_evidence import PrometheusSource
from serinus.core.errors import EngineError
from serinus.core.evidence import Arm, Interval, Snapshot, Unusable, between
from serinus.core.spec.rollout import QueryGuard
from serinus.engines.ports import free_ports
from serinus.engines.prometheus import Connection, Prometheus
from tests.support import eventually
from tests.support_metrics import MODEL, Exporter, Quiet, Server, scraping

pytestmark = pytest.mark.timeout(300)

VERSIONS = (3, 4)
ROLES = (4, 3)
EDGES = ("0.01", "0.1")
# Four times as long as between two scrapes: on a busy machine a sample can be seen late, and one that comes after the
# look at its moment is no growth any more.
INTERVAL = timedelta(seconds=2)


class Looks:
    """Looks at one source, each knowing the last one."""

    def __init__(self, source: EvidenceSource, server: Server | None = None) -> None:
        self.source = source
        self.server = server
        self.last: Snapshot | None = None

    def look(self) -> Snapshot:
        self.last = self.source.snapshot(VERSIONS, self.last, datetime.now(UTC))
        return self.last

    def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        def looked() -> Snapshot | None:
            found = self.look()
            return found if condition(found) else None

        found = eventually(looked, 60)
        assert found is not None
        return found

    def complete(self) -> Snapshot:
        """A look that misses nothing, at a time from which on everything is counted."""
        return self.until(lambda found: not found.missing and counts(found))

    def settled(self) -> Snapshot:
        """A complete look at a moment after everything so far was scraped, however late that is."""
        if self.server is not None:
            server, asked = self.server, datetime.now(UTC)
            eventually(lambda: server.scraped_all_since(asked), 60)
        moment = datetime.now(UTC)
        return self.until(lambda found: not found.missing and counts(found) and found.at > moment)


def counts(found: Snapshot) -> bool:
    """Whether a source counts already: one of Prometheus lets two scrapes pass at the beginning of an epoch."""
    return found.source != "prometheus" or found.at >= datetime.fromisoformat(found.epoch) + 2 * INTERVAL


def of(before: Snapshot, after: Snapshot, *, shadow: bool = False) -> Interval:
    found = between(before, after, ROLES, shadow=shadow)
    assert isinstance(found, Interval), found
    return found


@contextmanager
def scraped(exporter: Exporter, _: Path) -> Iterator[Looks]:
    yield Looks(ScrapeSource(exporter.address, MODEL))


@contextmanager
def by_prometheus(exporter: Exporter, folder: Path) -> Iterator[Looks]:
    with scraping(folder, exporter) as server:
        yield looks_of(server)


def source_of(server: Server, *queries: QueryGuard) -> PrometheusSource:
    return PrometheusSource(Prometheus(Connection(server.url)), MODEL, queries, interval=INTERVAL)


def looks_of(server: Server, *queries: QueryGuard) -> Looks:
    return Looks(source_of(server, *queries), server)


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    found = Exporter()
    yield found
    found.stop()


@pytest.fixture(params=[pytest.param(scraped), pytest.param(by_prometheus, marks=pytest.mark.prometheus)])
def looks(request: pytest.FixtureRequest, exporter: Exporter, tmp_path: Path) -> Iterator[Looks]:
    exporter.asked(3, ok=1000, error=10)
    exporter.count("serinus_feature_stale_total", 0, 3, view="hourly", traffic="live")
    exporter.count("serinus_feature_stale_total", 0, 3, view="daily", traffic="live")
    with request.param(exporter, tmp_path) as found:
        yield found


def everything(exporter: Exporter) -> None:
    """Some traffic of two versions, and copies."""
    exporter.asked(3, ok=95, error=4, none=1)
    exporter.asked(4, ok=8, none=2)
    exporter.asked(4, ok=20, error=1, traffic="shadow")
    exporter.took(3, (0.005, 0.01, 0.05, 3.0), EDGES)
    exporter.took(4, (0.05,), EDGES, "shadow")
    exporter.count("serinus_rows_total", 90, 3, result="ok", traffic="live")
    exporter.count("serinus_rows_total", 10, 3, result="failed", traffic="live")
    exporter.count("serinus_feature_missing_total", 6, 3, view="hourly", reason="absent", traffic="live")
    exporter.count("serinus_feature_missing_total", 3, 3, view="daily", reason="early", traffic="live")
    exporter.count("serinus_feature_stale_total", 1, 3, view="hourly", traffic="live")
    for at, amount in (("1", 7), ("20", 2)):
        exporter.count("serinus_prediction_values_total", amount, 3, bin=at, traffic="live")
    exporter.count("serinus_routed_requests_total", 100, 3)
    exporter.count("serinus_routed_requests_total", 10, 4)


def test_both_sources_tell_the_same_of_the_same_traffic(looks: Looks, exporter: Exporter) -> None:
    first = looks.complete()
    everything(exporter)
    exporter.count("serinus_routed_requests_total", 1000, 7)
    after = looks.until(lambda found: found.arm(4).routed == 10)
    expected = Arm(
        requests=100,
        errors=5,
        latency_edges=(0.01, 0.1),
        latency=(2, 1, 1),
        rows=100,
        problems=5,
        predictions=(0, 7, *[0] * 18, 2),
        routed=100,
    )
    found = of(first, after)
    assert (found.stable, found.canary) == (expected, Arm(requests=10, errors=2, routed=10))
    copies = of(first, after, shadow=True)
    assert copies.stable == expected
    assert copies.canary == Arm(requests=21, errors=1, latency_edges=(0.01, 0.1), latency=(0, 1, 0))

    again = looks.complete()
    nothing = of(after, again)
    assert (nothing.stable.requests, nothing.canary.requests, again.epoch) == (0, 0, first.epoch)
    assert again.at >= after.at


def test_what_cannot_be_read_is_missing_and_made_up_for_later(looks: Looks, exporter: Exporter) -> None:
    first = looks.complete()
    exporter.stop()
    gap = looks.until(lambda found: bool(found.missing))
    assert isinstance(between(first, gap, ROLES, shadow=False), Unusable)
    assert str(exporter.port) in gap.missing[0]
    exporter.asked(4, ok=5)
    exporter.start()
    back = looks.until(lambda found: found.arm(4).requests == 5 and not found.missing)
    assert of(first, back).canary.requests == 5


def test_without_the_front_doors_counts_nothing_is_complete(looks: Looks, exporter: Exporter) -> None:
    looks.complete()
    exporter.door = 0.0
    assert "front door" in looks.until(lambda found: bool(found.missing)).missing[0]


def test_a_scrape_tells_that_counting_began_anew(exporter: Exporter) -> None:
    looks = Looks(ScrapeSource(exporter.address, MODEL))
    exporter.asked(3, ok=5)
    first = looks.complete()
    exporter.restart("b")
    exporter.asked(3, ok=50)
    found = between(first, looks.complete(), ROLES, shadow=False)
    assert found == Unusable(reason="counting began anew")


def test_queries_need_prometheus(exporter: Exporter) -> None:
    guard = QueryGuard(name="refunds", numerator="a$version", denominator="b$version")
    found = ScrapeSource(exporter.address, MODEL, [guard]).snapshot(VERSIONS, None, datetime.now(UTC))
    assert found.missing == ("refunds is a query, which only Prometheus answers",)


def test_a_page_that_is_something_else_is_missing(exporter: Exporter) -> None:
    exporter.count("serinus_prediction_values_total", 1, 3, bin="many", traffic="live")
    found = ScrapeSource(exporter.address, MODEL).snapshot(VERSIONS, None, datetime.now(UTC))
    assert "shows no metrics that can be read" in found.missing[0]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[tuple[Exporter, Exporter, Server]]:
    with ExitStack() as stack:
        first, second = Exporter("a"), Exporter("b")
        stack.callback(first.stop)
        stack.callback(second.stop)
        yield first, second, stack.enter_context(scraping(tmp_path, first, second))


@pytest.mark.prometheus
def test_totals_go_on_over_restarts_and_ends_of_pods(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, second, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1000)
    start = looks.settled()
    totals: list[float] = []

    def reached(requests: float) -> None:
        def there(found: Snapshot) -> bool:
            totals.append(found.arm(3).requests)
            return totals[-1] == start.arm(3).requests + requests and not found.missing

        assert looks.until(there).epoch == start.epoch

    first.asked(3, ok=10)
    second.asked(3, ok=20)
    reached(30)
    first.restart("c")
    first.asked(3, ok=7)
    reached(37)
    second.asked(3, ok=3)
    reached(40)
    server.scrape(first)
    second.stop()
    first.asked(3, ok=1)
    reached(41)
    third = Exporter("d")
    try:
        third.asked(3, ok=100)
        server.scrape(first, third)
        reached(141)
    finally:
        third.stop()
    assert totals == sorted(totals), "no total ever fell"

    looked_once = looks_of(server)
    looked_once.last = start
    assert of(start, looked_once.complete()).stable.requests == 141, "one look over all of it gives the same"


@pytest.mark.prometheus
def test_a_target_that_is_down_is_missing_until_it_is_no_target_any_more(
    pods: tuple[Exporter, Exporter, Server],
) -> None:
    first, second, server = pods
    looks = looks_of(server)
    second.asked(4, ok=3)
    start = looks.settled()
    second.asked(4, ok=3)
    looks.until(lambda found: found.arm(4).requests == start.arm(4).requests + 3)
    second.stop()
    gap = looks.until(lambda found: bool(found.missing))
    assert gap.missing == (f"Prometheus cannot scrape serinus 127.0.0.1:{second.port}",)
    server.scrape(first)
    after = looks.complete()
    assert of(start, after).canary.requests == 3, "what it had counted stays"


@pytest.mark.prometheus
def test_while_prometheus_is_away_totals_and_their_moment_stay(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, _, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1)
    start = looks.settled()
    first.asked(3, ok=4)
    before = looks.until(lambda found: of(start, found).stable.requests == 4)
    server.stop()
    gap = looks.look()
    assert "does not answer" in gap.missing[0]
    assert (gap.at, gap.live, gap.epoch) == (before.at, before.live, start.epoch)
    first.asked(3, ok=2)
    server.start()
    after = looks.until(
        lambda found: found.at > before.at and not found.missing and of(start, found).stable.requests == 6
    )
    assert after.epoch == start.epoch


@pytest.mark.prometheus
def test_a_prometheus_that_lost_its_data_counts_anew(pods: tuple[Exporter, Exporter, Server], tmp_path: Path) -> None:
    first, second, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1)
    start = looks.settled()
    first.asked(3, ok=1000)
    before = looks.until(lambda found: of(start, found).stable.requests == 1000)
    other = tmp_path / "other"
    other.mkdir()
    with scraping(other, first, second) as empty:
        looks.source = source_of(empty)
        # Until it has scraped the one that counted, nothing tells that anything is lost, and nothing more is counted.
        after = looks.until(lambda found: not found.missing and counts(found) and found.epoch != start.epoch)
    assert after.arm(3).requests == 0
    assert after.epoch not in ("", start.epoch)
    assert between(before, after, ROLES, shadow=False) == Unusable(reason="counting began anew")


@pytest.mark.prometheus
def test_the_users_queries_are_asked_for_each_version(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, _, server = pods
    first.count("shop_baskets_total", 100, 3)
    first.count("shop_baskets_total", 7, 4)
    first.count("shop_empty_baskets_total", 5, 3)
    baskets = 'sum(shop_baskets_total{version="$version"})'
    empty = 'sum(shop_empty_baskets_total{version="$version"})'
    good = QueryGuard(name="empty", numerator=f"{empty} or vector(0)", denominator=baskets)
    looks = looks_of(server, good)
    found = looks.until(lambda found: not found.missing and found.arm(3).queries == {"empty": (5, 100)})
    assert found.arm(4).queries == found.arm(4, shadow=True).queries == {"empty": (0, 7)}

    bad = [
        QueryGuard(name="none", numerator=empty, denominator=baskets),
        QueryGuard(name="many", numerator="up * on () group_left () vector($version)", denominator=baskets),
        QueryGuard(name="odd", numerator="vector(-$version)", denominator=baskets),
        QueryGuard(name="broken", numerator="sum(($version)", denominator=baskets),
        QueryGuard(name="off", numerator="sum(($version)", denominator=baskets, enabled=False),
    ]
    # On a busy machine a scrape may be late, which is told too.
    missing = looks_of(server, *bad).until(lambda found: not any("recent" in each for each in found.missing)).missing
    assert len(missing) == 7, missing
    for words in (
        f"none: {empty.replace('$version', '4')} gives nothing; if that means none, add `or vector(0)`",
        "many: up * on () group_left () vector(3) gives 2 series; sum them up",
        "odd: vector(-4) gives -4, which is no count",
    ):
        assert words in missing
    assert any(each.startswith("broken:") and "refused sum((3)" in each for each in missing)


class Guarded:
    """An address where Prometheus answers only who brings the token, as behind an authenticating proxy."""

    def __init__(self, server: Server, token: str) -> None:
        self.token = token
        self._behind = server.url
        self.port = free_ports(1)[0]
        self.server = make_server("127.0.0.1", self.port, self._answer, handler_class=Quiet)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {self.token}":
            start("401 Unauthorized", [])
            return [b"who are you?"]
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        kind = {"content-type": environ["CONTENT_TYPE"]}
        answer = httpx.post(self._behind + environ["PATH_INFO"], content=body, headers=kind)
        start(f"{answer.status_code} Whatever", [("content-type", "application/json")])
        return [answer.content]


@pytest.mark.prometheus
def test_a_token_is_read_again_for_each_question(pods: tuple[Exporter, Exporter, Server], tmp_path: Path) -> None:
    guarded = Guarded(pods[2], "first")
    try:
        file = tmp_path / "token"
        server = Prometheus(Connection(f"http://127.0.0.1:{guarded.port}", token_file=file))
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
    finally:
        guarded.server.shutdown()
        guarded.server.server_close()


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


def test_what_is_no_prometheus_says_so(exporter: Exporter) -> None:
    with pytest.raises(EngineError, match="gave no answer of its API"):
        Prometheus(Connection(exporter.address)).instant("up", datetime.now(UTC))


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
