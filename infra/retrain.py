"""One scheduled slot: ingest what is new, train on from the champion, compare, promote what is better, and report.

A slot has a name, such as nightly-2026-11-24, which is also the name of its training run. After each stage its state is
written to STORE/slots. So the same command, given again after a kill, goes on where it was, and a finished slot does nothing.
One process at a time retrains on a store: it holds a lease, and looks at it again just before it promotes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from naturaltone.infra import launch, local, webhook
from naturaltone.infra.retrain_config import RetrainConfig
from naturaltone.infra.time_limit import time_limit
from naturaltone.pipeline import lease, storage
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.lease import Lease, LeaseHeld
from naturaltone.pipeline.photo.find import list_photos
from naturaltone.pipeline.private_folder import private_folder
from naturaltone.serving import promotions, registry
from naturaltone.serving.evaluation.challenge import challenge
from naturaltone.serving.evaluation.gate import Outcome
from naturaltone.serving.evaluation.smoke_test import SmokeTestFailed
from naturaltone.serving.promotions import PromotionRefused
from naturaltone.training import model_registry, start, tracking
from naturaltone.training.config import TrainConfig

SLOTS = "slots"  # the folder of the slots' states in a store
SLOT_TAG = "slot"  # of a version: the slot that trained it, and what became of it
PROMOTED, KEPT, NOTHING_NEW = "promoted", "kept as challenger", "nothing new"

log = logging.getLogger(__name__)


class AtWork(UserError):
    """Another process retrains on the store. The message names it."""


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """How far a slot is.

    changed: photos more or fewer than at the last training. champion: when the training began; None if there was none.
    start: `checkpoint`, `bundle` or `nothing`, see `start_of`. version: what was trained. outcome: `PROMOTED`, `KEPT` or
    `NOTHING_NEW`; None until it is clear. seconds: of each finished stage. ended: when, in seconds since 1970.
    """

    name: str
    changed: int = 0
    champion: str | None = None
    start: str = ""
    version: str | None = None
    verdict: str | None = None
    why: str = ""
    outcome: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    ended: float | None = None

    @property
    def is_finished(self) -> bool:
        return "report" in self.seconds

    @property
    def line(self) -> str:
        """The slot in one line, for the log."""
        version = f" version {self.version}" if self.version else ""
        times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"slot {self.name}: {self.outcome}{version}: {self.why} ({times})"


def run_slot(config: RetrainConfig, slot: str) -> SlotState:
    """Run the slot, or the rest of it. slot: such as a date.

    `AtWork` if another process retrains on the store, `RunFailed` if the slot can go on later, `UserError` if somebody has
    to change something first.
    """
    name = f"{config.name}-{slot}"
    uri = state_uri(config, slot)
    storage.check_writable(config.store)
    tracking.give_up_soon()
    with _only_one(config.store) as held:
        state = _read(uri) or SlotState(name=name)
        if state.is_finished:
            return state
        tracking.create_database()  # the first slot of all
        promotions.champion()  # says at once if the registry is away, or lost the champion

        limits = config.limits
        stages: dict[str, tuple[float, Callable[[SlotState], dict[str, Any]]]] = {
            "ingest": (limits.ingest, lambda _: _ingest(config)),
            "plan": (limits.promote, lambda _: _plan(config)),
            "train": (limits.train, lambda now: _train(config, now)),
            "gate": (limits.gate, lambda now: _gate(config, now)),
            "promote": (limits.promote, lambda now: _promote(now, held)),
            "report": (limits.promote, lambda now: _report(config, now)),
        }
        for stage, (seconds, work) in stages.items():
            if stage in state.seconds or (state.outcome and stage != "report"):
                continue  # done by an earlier try, or there is nothing to do
            state = _after(state, stage, seconds, work)
            held.check()
            storage.write_bytes(uri, json.dumps(dataclasses.asdict(state), indent=1).encode())
    return state


def _after(state: SlotState, stage: str, most_seconds: float, work: Callable[[SlotState], dict[str, Any]]) -> SlotState:
    """Do a stage's work, which returns what it changes in the state."""
    begun = time.monotonic()
    try:
        with time_limit(most_seconds, f"slot {state.name}: {stage}"):
            changes = work(state)
    except LeaseHeld as error:  # somebody else ingests, or trains this run
        raise RunFailed(f"slot {state.name}: {error}") from error
    return dataclasses.replace(state, **changes, seconds={**state.seconds, stage: round(time.monotonic() - begun, 1)})


def state_uri(config: RetrainConfig, slot: str) -> str:
    return storage.join(config.store, SLOTS, config.name, f"{slot}.json")


@contextlib.contextmanager
def _only_one(store: str) -> Iterator[Lease]:
    """Hold the lease of a store's retraining."""
    uri, what = storage.join(store, "locks", "retrain.json"), f"retraining on '{store}'"
    if not lease.is_safe(uri):
        if os.environ.get("RAY_ADDRESS"):
            raise UserError(
                f"'{store}': its S3 server has no conditional writes, so two machines could retrain at once; use AWS, "
                "RustFS or versitygw, or unset RAY_ADDRESS to retrain on this machine alone"
            )
        log.warning("'%s': its S3 server has no conditional writes; retrain on it from this machine only", store)
        uri = str(private_folder("locks") / f"retrain-{hashlib.sha256(store.encode()).hexdigest()[:16]}.json")
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(lease.hold(uri, what=what))
        except LeaseHeld as error:
            raise AtWork(str(error)) from None
        yield held


def _ingest(config: RetrainConfig) -> dict[str, Any]:
    """Add what is new to the store, and compare its size with that of the last training."""
    chosen = config.ingest
    made_with: dict[str, Any] = {
        "long_side": chosen.long_side, "algorithm": chosen.algorithm, "intermediates": chosen.intermediates
    }  # fmt: skip
    sources = _sources(config)
    if sources:
        for role, _ in sources:
            ingest.open_or_new(config.store, role=role, **made_with)
        with local.ray_when_needed() as start_ray:
            for role, source in sources:
                report = ingest.ingest(source, role=role, store=config.store, before_work=start_ray, **made_with)
                if rejected := report.rejects.num_rows:
                    log.warning("%d photos of '%s' are rejected; %s/rejects.parquet", rejected, source, config.store)
    changed = changed_photos(config.store)
    if changed < chosen.at_least:
        why = f"{changed} photos more or fewer than at the last training; it takes {chosen.at_least}"
        return {"changed": changed, "outcome": NOTHING_NEW, "why": why}
    return {"changed": changed}


def _sources(config: RetrainConfig) -> list[tuple[str, str]]:
    """The folders to ingest, each with the role of its photos."""
    return [("input", each) for each in config.ingest.inputs] + [("natural", each) for each in config.ingest.natural]


def changed_photos(store: str) -> int:
    """How many photos more or fewer of each role the store has than at its last training, summed over the roles."""
    now = shards.open_store(store)
    before = {role: 0 for role in shards.ROLES}
    for version in model_registry.versions():
        if version.tags.get("lineage.store") == now.uri and "lineage.photos" in version.tags:
            before = json.loads(version.tags["lineage.photos"])
            break
    return sum(abs(now.count(role, "train") - before[role]) for role in shards.ROLES)


def _plan(config: RetrainConfig) -> dict[str, Any]:
    """Decide once what to start from, because the champion may change while a slot is stopped."""
    champion = promotions.champion()
    return {"champion": champion, "start": start_of(config, champion)}


def start_of(config: RetrainConfig, champion: str | None) -> str:
    """What a training starts from: the champion's `checkpoint`, its `bundle` if that is gone, or `nothing`."""
    if champion is None:
        return "nothing"
    tags = model_registry.find_version(champion).tags
    if tags.get("lineage.store") != config.store or "lineage.run" not in tags:
        return "bundle"
    found = start.last_checkpoint(config.store, tags["lineage.run"], config.train.config())
    return "checkpoint" if found else "bundle"


def _train(config: RetrainConfig, state: SlotState) -> dict[str, Any]:
    """Train on, and register the result as the challenger."""
    train_config = config.train.config()
    if "seed" not in config.train.set:  # each slot sees the photos in an order of its own
        train_config = dataclasses.replace(train_config, seed=zlib.crc32(state.name.encode()))
    if state.start == "bundle":
        warmup = min(config.train.discriminator_warmup, train_config.steps // 4)  # G must learn too
        train_config = dataclasses.replace(train_config, discriminator_warmup=warmup)
    went_on_from = {"champion": state.champion, "start": state.start}
    with tempfile.TemporaryDirectory(prefix="naturaltone-slot-") as folder:
        run = launch.TrainingRun(
            name=state.name,
            config=train_config,
            bundle=Path(folder),
            start=_start(config, state, train_config),
            lineage={"recipe": config.train.recipe, "slot": state.name, "went_on_from": json.dumps(went_on_from)},
        )
        [result] = launch.train(config.store, [run], workers=config.train.workers or launch.default_workers())
        version = registry.register(result.bundle, run_id=result.run_id).version
    return {"version": version}


def _start(config: RetrainConfig, state: SlotState, train_config: TrainConfig) -> Callable[[], start.Snapshot] | None:
    if state.champion is None:
        return None
    champion = model_registry.find_version(state.champion)

    def make() -> start.Snapshot:
        if state.start == "checkpoint":
            found = start.last_checkpoint(config.store, champion.tags["lineage.run"], train_config)
            if found:
                return found
            raise UserError(
                f"slot {state.name}: the checkpoints of run '{champion.tags['lineage.run']}' were there when the slot "
                "began, and are gone; give a new --slot, which starts from the champion's bundle"
            )
        return start.from_bundle(registry.load_model(champion.uri)[0], train_config)

    return make


def _gate(config: RetrainConfig, state: SlotState) -> dict[str, Any]:
    champion = promotions.champion()
    assert state.version is not None  # the training has registered it
    if champion in (None, state.version):
        return {"verdict": Outcome.BETTER.value, "why": "the first model"}
    try:
        told = challenge(
            state.version,
            champion=str(champion),
            store=shards.open_store(config.store),
            processes=config.gate.processes or local.cores(),
            slots_per_year=config.gate.slots_per_year,
        )
    except SmokeTestFailed as error:
        return {"verdict": "broken", "why": str(error)}
    return {"verdict": told.verdict.outcome.value, "why": f"against {champion}: {told.verdict.why}"}


def _promote(state: SlotState, held: Lease) -> dict[str, Any]:
    """Promote what the gate found better, if the lease is still ours just before."""
    if state.verdict != Outcome.BETTER:
        return {}
    assert state.version is not None
    try:
        promotions.promote(state.version, why=state.why, by=f"slot {state.name}", check=held.check)
    except PromotionRefused as error:
        return {"verdict": "champion changed", "why": str(error)}
    return {}


def _report(config: RetrainConfig, state: SlotState) -> dict[str, Any]:
    """Tag the version and tell the webhook. If nobody takes the report, the slot has still done its work."""
    outcome = state.outcome or (PROMOTED if state.verdict == Outcome.BETTER else KEPT)
    if state.version is not None:
        model_registry.set_tag(state.version, SLOT_TAG, json.dumps({"name": state.name, "outcome": outcome}))
    if config.report.webhook:
        told = dataclasses.asdict(dataclasses.replace(state, outcome=outcome))
        try:
            webhook.send(config.report.webhook, told, secret=os.environ.get(config.report.secret_variable))
        except webhook.WebhookFailed as error:
            log.warning("slot %s: %s", state.name, error)
    return {"outcome": outcome, "ended": round(time.time(), 1)}


def _read(uri: str) -> SlotState | None:
    try:
        return SlotState(**json.loads(storage.read_bytes(uri)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise storage.StorageError(f"'{uri}': cannot be read ({error}); delete it to begin this slot anew") from None


def describe(config: RetrainConfig, slot: str) -> list[str]:
    """What `run_slot` would do, one line each. Nothing is changed."""
    tracking.give_up_soon()
    state = _read(state_uri(config, slot))
    name = f"{config.name}-{slot}"
    if state and state.is_finished:
        return [f"{state.line}; it would do nothing more"]
    done = f"goes on after {', '.join(state.seconds)}" if state and state.seconds else "is new"
    lines = [f"slot {name} {done}"]
    for role, source in _sources(config):
        lines.append(f"ingest: {sum(1 for _ in list_photos(source)):,} files of {source} as {role} photos")
    if not tracking.database_exists(tracking.tracking_uri()):
        lines.append(f"registry: '{tracking.tracking_uri()}' is new")
        lines.append(f"train: {config.train.config().steps:,} steps from new networks")
    elif storage.exists(storage.join(config.store, shards.MANIFEST)):
        now = shards.open_store(config.store)
        counts = ", ".join(f"{now.count(role):,} {role}" for role in shards.ROLES)
        lines.append(
            f"store: {counts} photos; {changed_photos(config.store):,} more or fewer than at the last training"
        )
        champion = promotions.champion()
        begins = start_of(config, champion)
        named = f"champion {champion}'s {begins}" if champion else "new networks"
        lines.append(
            f"train: {config.train.config().steps:,} steps from {named}, if that is {config.ingest.at_least} or more"
        )
    else:
        lines.append(f"store: '{config.store}' is new")
    lines.append(f"gate: as strict as {config.gate.slots_per_year:g} slots a year need; promote only what is better")
    return lines
