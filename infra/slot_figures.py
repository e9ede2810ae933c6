"""Tells Prometheus what became of a slot: by a file that node_exporter reads, or by a Pushgateway.

A slot ends long before Prometheus would read it, so its figures have to outlive it. prometheus_client is imported only when
there is something to tell: the service must be able to set its variable before the first import.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from naturaltone.infra.retrain import KEPT, NOTHING_NEW, PROMOTED, SLOT_TAG, SlotState
from naturaltone.infra.retrain_config import RetrainConfig
from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.serving import promotions
from naturaltone.training import model_registry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.metrics_core import Metric

FAILED, HELD = "failed", "held"
_WORDS = {PROMOTED: "promoted", KEPT: "refused", NOTHING_NEW: "nothing_new", FAILED: FAILED, HELD: HELD}
_JOB = "naturaltone_retrain"
_ANSWER_SECONDS = 10.0

log = logging.getLogger(__name__)


def tell(config: RetrainConfig, outcome: str, state: SlotState | None = None) -> None:
    """Tell the outcome of a slot's latest try, and with its state more. A receiver that is away costs one warning line."""
    metrics = config.metrics
    if not (metrics.textfile or metrics.pushgateway):
        return
    from prometheus_client import pushadd_to_gateway, write_to_textfile

    try:
        figures = list(_figures(config, outcome, state))
        if metrics.textfile:
            write_to_textfile(metrics.textfile, _registry([*_kept(metrics.textfile, figures), *figures]))
        if metrics.pushgateway:
            # "add" leaves the figures alone that this try does not know.
            pushadd_to_gateway(
                metrics.pushgateway,
                job=_JOB,
                grouping_key={"name": config.name},
                registry=_registry(figures),
                timeout=_ANSWER_SECONDS,
            )
    except (OSError, ValueError, UserError) as error:  # the slot has done its work
        log.warning(
            "metrics of '%s' are not told to %s (%s)",
            *(config.name, metrics.textfile or metrics.pushgateway, first_line(error)),
        )


def _figures(config: RetrainConfig, outcome: str, state: SlotState | None) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    def gauge(name: str, description: str, values: Iterable[tuple[str, float]], label: str = "") -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            f"naturaltone_retrain_{name}", description, labels=["name", *([label] * bool(label))]
        )
        for said, value in values:
            family.add_metric([config.name, *([said] * bool(label))], value)
        return family

    words = ((word, float(each == outcome)) for each, word in _WORDS.items())
    yield gauge("outcome", "1 for what became of the latest try of a slot.", words, "outcome")
    if state is None:
        return
    if state.ended:  # a slot of an earlier version does not say it
        yield gauge("last_slot_timestamp_seconds", "When the latest slot was finished.", [("", state.ended)])
    yield gauge("stage_seconds", "Seconds of each stage of that slot.", state.seconds.items(), "stage")
    promoted = [datetime.fromisoformat(each.at) for each in promotions.history() if each.is_done]
    if promoted:
        when = promoted[-1].timestamp()
        yield gauge("last_promotion_timestamp_seconds", "When the champion changed last.", [("", when)])
    refused = _refused(config, since=promoted[-1] if promoted else None)
    yield gauge("refused_slots", "Slots whose model was refused since then.", [("", float(len(refused)))])
    since = min(refused).timestamp() if refused else 0.0
    yield gauge(
        "refused_since_timestamp_seconds", "When the first of them trained its model; 0 if none.", [("", since)]
    )


def _refused(config: RetrainConfig, *, since: datetime | None) -> list[datetime]:
    """When the versions were made that this store's slots have trained and not promoted since the last promotion."""
    refused = []
    for version in model_registry.versions():
        if since and version.created <= since:
            break
        slot = json.loads(version.tags.get(SLOT_TAG, "{}"))
        if version.tags.get("lineage.store") == config.store and slot.get("outcome") == KEPT:
            refused.append(version.created)
    return refused


def _kept(path: str, figures: list[GaugeMetricFamily]) -> list[Metric]:
    """The figures that an earlier slot wrote, and this try does not know."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return []
    new = {figure.name for figure in figures}
    return [found for found in text_string_to_metric_families(text) if found.name not in new]


def _registry(figures: Sequence[Metric]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterable[Metric]:
            return figures

    registry = CollectorRegistry()
    registry.register(Figures())
    return registry
