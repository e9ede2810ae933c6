"""Puts a registered version before the gate: smoke test, scores, verdict, and the evidence in the registry."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import gate_set
from naturaltone.serving.evaluation.gate import SLOTS_PER_YEAR, Verdict, judge
from naturaltone.serving.evaluation.gate_page import gate_page
from naturaltone.serving.evaluation.gate_scores import PhotoScores, score_gate
from naturaltone.serving.evaluation.smoke_test import smoke_test
from naturaltone.serving.promotions import GATE_TAG
from naturaltone.training import model_registry, tracking
from naturaltone.training.checkpoint import load_bundle


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What the gate said of a version, against the champion of that moment. page: HTML."""

    version: str
    champion: str
    verdict: Verdict
    page: str


def challenge(
    version: str,
    *,
    champion: str,
    store: shards.Store,
    processes: int,
    slots_per_year: float = SLOTS_PER_YEAR,
) -> Challenge:
    """Judge a version against another one on the store's gate set, and write the verdict to its run and tags.

    version, champion: numbers. processes: how many enhance at once. `SmokeTestFailed` if the version cannot be used,
    `UserError` if the store has no held-out photos, `TrackingError` if the registry cannot be used.
    """
    gate = gate_set.open_gate_set(store)
    if not gate.ids["input"]:
        raise UserError(
            f"'{store.uri}': the gate set has no photos, because none were held out when it was frozen; ingest more inputs, "
            f"then `naturaltone store {store.uri} --grow-gate`"
        )
    uris = [model_registry.find_version(each).uri for each in (champion, version)]
    with registry.fetched(uris[0]) as (old, old_name), registry.fetched(uris[1]) as (new, new_name):
        smoke_test(new, (photo.image for photo in gate_set.read_gate_photos(store, gate)))
        scores = score_gate(
            gate_set.read_gate_photos(store, gate),
            champion=old,
            challenger=new,
            processes=processes,
            total=sum(map(len, gate.ids.values())),
        )
        verdict = judge(scores, slots_per_year=slots_per_year)
        models = [Enhancer(load_bundle(folder), version=name) for folder, name in ((old, old_name), (new, new_name))]
    title = f"Version {version} against champion {champion}"
    page = gate_page(title, verdict, scores, gate_set.read_gate_photos(store, gate), models)
    _keep(version, champion, gate.digest, verdict, scores, page)
    return Challenge(version=version, champion=champion, verdict=verdict, page=page)


def _keep(
    version: str, champion: str, gate_digest: str, verdict: Verdict, scores: Sequence[PhotoScores], page: str
) -> None:
    """Write the evidence. The tag comes last: with it, the version may be promoted."""
    evidence = {"champion": champion, "gate_set": gate_digest, **verdict.to_json()}
    measured = {f"eval/result/{name}": value for name, value in _means(scores).items()}
    measured |= {f"gate/{check.slice.replace(' ', '_')}/{check.measure}": check.mean for check in verdict.checks}
    tracking.log_evaluation(
        model_registry.find_version(version).run_id,
        {name: value for name, value in measured.items() if value == value},  # NaN is left out
        {"gate.html": page, "gate.json": json.dumps(evidence, indent=1)},
    )
    tag: dict[str, object] = {
        "outcome": verdict.outcome.value,
        "champion": champion,
        "gate_set": gate_digest,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "why": verdict.why[:2000],
        "numbers": verdict.numbers,
    }
    model_registry.set_tag(version, GATE_TAG, json.dumps(tag))


def _means(scores: Sequence[PhotoScores]) -> dict[str, float]:
    """The challenger's measures over the photos that have a value, as `naturaltone evaluate` logs them."""
    values: dict[str, list[float]] = defaultdict(list)
    for each in scores:
        for name, value in each.challenger.items():
            if not math.isnan(value):
                values[name].append(value)
    return {name: statistics.fmean(found) for name, found in values.items()}
