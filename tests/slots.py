"""Stand-ins for a slot's long stages: a training that gives a bundle at once, and a gate that is told what to say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from naturaltone.infra.launch import TrainingRun
from naturaltone.pipeline.dataset import shards
from naturaltone.serving.promotions import GATE_TAG
from naturaltone.training import model_registry, tracking
from naturaltone.training.checkpoint import Bundle, save_bundle


def training(bundle: Bundle, seen: Callable[[TrainingRun], None] = lambda _: None) -> Callable[..., list[Any]]:
    """A stand-in for `launch.train`: each run's model is `bundle` with a bias that its seed chooses. seen: gets each run."""

    def train(store_uri: str, planned: list[TrainingRun], *, workers: object) -> list[Any]:
        [run] = planned
        seen(run)
        run_id = tracking.start_run(run_name=run.name, params={}, tags={"store": store_uri}, dataset=store_uri)
        store = shards.open_store(store_uri)
        generator = copy.deepcopy(bundle.generator)
        with torch.no_grad():
            generator.decoder[-1].bias.fill_(0.001 * (run.config.seed % 1000))
        lineage = {
            **{"run": run.name, "store": store_uri, "algorithm": store.algorithm, **(run.lineage or {})},
            "photos": {role: store.count(role, "train") for role in shards.ROLES},
        }
        save_bundle(run.bundle, generator, run.config, working_resolution=96, lineage=lineage)
        return [SimpleNamespace(bundle=run.bundle, run_id=run_id)]

    return train


def gate(says: list[str]) -> Callable[..., Any]:
    """A stand-in for `challenge`: its outcomes are those of `says`, one after the other. The version's tag is real."""

    def challenge(version: str, *, champion: str, **_: object) -> Any:
        outcome, why = says.pop(0), "what the test wants"
        said = {"outcome": outcome, "champion": champion, "why": why, "numbers": {"naturalness": 0.02}}
        model_registry.set_tag(version, GATE_TAG, json.dumps(said))
        return SimpleNamespace(verdict=SimpleNamespace(outcome=SimpleNamespace(value=outcome), why=why))

    return challenge
