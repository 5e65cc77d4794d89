"""Metrics as Prometheus text: the process's counters, and gauges read from the engine at the moment of the scrape.

Every counter that is counted anywhere stands in `COUNTERS`, in the native stream's or in the dialect's own table, with its help text;
those are shown from the start, at 0 where they have no labels. One that is in no table is shown too, so that a defect is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar import __version__
from sidecar.core.record import GAP_REASONS
from sidecar.downstream import native
from sidecar.ops import status
from sidecar.ops.status import Running

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "gaps": ("Gaps recorded in the journal: events are missing that nothing upstream can still give.", ("stream", "reason")),
    "retention_gaps": ("Readers that came too late: retention had removed what they wanted.", ("stream",)),
    "redelivered": ("Events handed out again that a consumer may have had: at most a window after a crash, or unreceipted.", ("stream",)),
    "downgrades": ("Clients whose receipts turned out to prove less, by what they prove now.", ("quality",)),
    "admission_pauses": ("Times the journal stopped taking writes, so that admission paused.", ()),
    "commits": ("Write transactions given to the journal.", ()),
    "unreadable": ("Reads that the journal could not answer: damage, or the disk.", ()),
    "fatal": ("Times an account stopped until something outside changes, by its code.", ("code",)),
    "internal_errors": ("Defects of the sidecar that were survived; each is in the log with its trace.", ()),
}


class _Collector:
    """One scrape's view; registered anew for each, so that nothing is kept."""

    def __init__(self, sidecar: Running, own: Mapping[str, str]) -> None:
        self._sidecar = sidecar
        self._help: dict[str, tuple[str, tuple[str, ...]]] = dict(COUNTERS)
        self._help |= {name: (text, ()) for name, text in {**native.COUNTERS, **own}.items()}

    def collect(self) -> Iterator[Metric]:
        """All metrics, sorted by kind."""
        yield from self._counters()
        yield from self._process()
        yield from self._streams()
        yield from self._consumers()

    def _counters(self) -> Iterator[Metric]:
        values: dict[str, list[tuple[dict[str, str], int]]] = {}
        # A stream's gaps are shown from 0 on: a series that begins with its first gap never rises (Prometheus' increase()).
        known = {("gaps", (("reason", r), ("stream", s))): 0 for s in self._sidecar.engine.admission.books for r in GAP_REASONS}
        for (name, given), value in sorted((known | self._sidecar.counters.values).items()):
            values.setdefault(name, []).append((dict(given), value))
        for name in sorted(self._help.keys() | values.keys()):
            text, labels = self._help.get(name, ("A counter without a description.", ()))
            rows = values.get(name, [])
            names = labels or (tuple(sorted(rows[0][0])) if rows else ())
            family = CounterMetricFamily(f"sidecar_{name}", text, labels=names)
            if not rows and not names:
                family.add_metric((), 0)
            for row, value in rows:
                family.add_metric([row.get(label, "") for label in names], value)
            yield family
        duplicates = self._sidecar.engine.admission.duplicates
        yield _total("duplicates", "Events dropped because they were known: resync and backfill overlap what was live.", duplicates)

    def _process(self) -> Iterator[Metric]:
        engine, server = self._sidecar.engine, self._sidecar.server
        info = GaugeMetricFamily("sidecar_info", "The running sidecar; always 1.", labels=("version", "dialect", "epoch"))
        info.add_metric((__version__, self._sidecar.settings.dialect, engine.journal.epoch), 1)
        yield info
        yield _gauge("ready", "1 while agents can be served and events journaled (as readyz says).", not status.not_ready(engine))
        yield _gauge("admission_paused", "1 while the journal takes no writes and admission is paused.", bool(engine.paused))
        yield _gauge("sessions", "Local sessions that are being served from the journal.", len(engine.courier.sessions))
        yield _gauge("tunnels", "Sockets that are only tunnelled: their messages are not protected.", len(server.tunnels))
        facts = status.journal(self._sidecar)
        if "bytes" in facts:
            yield _gauge("journal_bytes", "Bytes the journal has in use.", facts["bytes"])
            yield _gauge("journal_quota_bytes", "Bytes the journal may use.", facts["quota_bytes"])
            yield _gauge("journal_file_bytes", "Extent of the journal's file.", facts["file_bytes"])

    def _streams(self) -> Iterator[Metric]:
        engine = self._sidecar.engine
        head = GaugeMetricFamily("sidecar_stream_head", "A stream's last offset on disk.", labels=("stream",))
        first = GaugeMetricFamily("sidecar_stream_first", "A stream's oldest offset that is kept.", labels=("stream",))
        events = CounterMetricFamily("sidecar_stream_events", "Events journaled in this epoch.", labels=("stream",))
        gaps = GaugeMetricFamily("sidecar_stream_gaps", "Gaps recorded in this epoch, restarts included.", labels=("stream",))
        state = GaugeMetricFamily("sidecar_upstream_state", "1 for the state a stream's upstream is in.", labels=("stream", "state"))
        for name, book in sorted(engine.admission.books.items()):
            head.add_metric((name,), book.committed)
            first.add_metric((name,), book.first)
            events.add_metric((name,), book.committed_ordinal)
            gaps.add_metric((name,), engine.gaps[name].count if name in engine.gaps else 0)
            state.add_metric((name, status.upstream_word(engine, name)), 1)
        yield from (head, first, events, gaps, state)

    def _consumers(self) -> Iterator[Metric]:
        engine = self._sidecar.engine
        labels = ("stream", "consumer", "kind")
        cursor = GaugeMetricFamily("sidecar_consumer_cursor", "Offset up to which a consumer has taken its stream.", labels=labels)
        lag = GaugeMetricFamily("sidecar_consumer_lag", "Records a consumer is behind the head.", labels=labels)
        sessions = GaugeMetricFamily("sidecar_consumer_sessions", "Connections of a consumer.", labels=labels)
        quality = GaugeMetricFamily(
            "sidecar_consumer_quality",
            "1 for what a consumer's receipts prove.",
            labels=(*labels, "quality"),
        )
        for name, book in sorted(engine.admission.books.items()):
            for found in status.consumers_of(engine, name):
                row: dict[str, Any] = status.consumer(book, found)
                key = (name, row["name"], row["kind"])
                cursor.add_metric(key, row["cursor"])
                lag.add_metric(key, row["lag"])
                sessions.add_metric(key, row["sessions"])
                quality.add_metric((*key, row["quality"]), 1)
        yield from (cursor, lag, sessions, quality)


def render(sidecar: Running, own: Mapping[str, str]) -> bytes:
    """The text of one scrape. `own`: the dialect's counters, name -> help."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(sidecar, own))
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sidecar_{name}", text, value=float(value))


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"sidecar_{name}", text, value=float(value))
