"""The verdict of the gate is kept with the version and its run, so that everybody can read why."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError
from naturaltone.serving import promotions, registry
from naturaltone.serving.evaluation import gate_set
from naturaltone.serving.evaluation.challenge import challenge
from naturaltone.serving.evaluation.gate_page import format_verdict
from naturaltone.serving.evaluation.smoke_test import SmokeTestFailed
from naturaltone.training import model_registry
from naturaltone.training.checkpoint import Bundle, save_bundle
from naturaltone.training.config import TrainConfig
from tests.serving.evaluation.conftest import Add


@pytest.fixture
def register(registered: str, bundle: Bundle, judge: Bundle, config: TrainConfig, tmp_path: Path):  # type: ignore[no-untyped-def]
    """`register(bias)`: registers a model whose pictures are lighter by `bias`; returns its number."""

    def run(bias: float) -> str:
        generator, folder = copy.deepcopy(bundle.generator), tmp_path / f"{bias}"
        with torch.no_grad():
            generator.decoder[-1].bias += bias
        lineage = {"algorithm": "test"}
        save_bundle(
            folder,
            generator,
            config,
            working_resolution=96,
            lineage=lineage,
            natural_model=judge.natural_model,
        )
        return registry.register(folder, run_id=registered).version

    return run


def test_a_challenge_leaves_its_evidence_and_decides_who_may_be_promoted(
    add: Add, register, registered: str, tmp_path: Path
) -> None:
    add("natural", 100, 20)
    store = add("input", 0, 20)
    old, new = register(0.0), register(0.5)
    promotions.promote(old, why="to begin", force=True)
    told = challenge(new, champion=old, store=store, processes=1)
    tag = json.loads(model_registry.find_version(new).tags[promotions.GATE_TAG])
    assert tag["outcome"] == told.verdict.outcome and (tag["champion"], tag["why"]) == (old, told.verdict.why)
    assert tag["gate_set"] == gate_set.open_gate_set(store).digest
    assert f"Version {new} against champion {old}" in told.page and told.page.count("<figure") >= 5
    kept = Path(MlflowClient().download_artifacts(registered, "gate.json", str(tmp_path)))
    assert json.loads(kept.read_text())["checks"] == told.verdict.to_json()["checks"]
    assert MlflowClient().get_run(registered).data.metrics["gate/all/naturalness"] == pytest.approx(
        told.verdict.checks[0].mean
    )
    assert 0 < model_registry.measures_of(model_registry.find_version(new))["eval/result/local_contrast_gain"] < 9
    table = format_verdict(told.verdict)
    assert (
        re.search(r"naturalness N +all +20 +[+-]", table) and "Not judged, because they have under 20 photos" in table
    )
    assert told.verdict.outcome == "worse"
    with pytest.raises(promotions.PromotionRefused, match=re.escape(told.verdict.why)):
        promotions.promote(new, why="the gate")


def test_a_store_that_holds_nothing_out_is_one_clear_line(add: Add, register) -> None:
    version = register(0.1)
    empty = add("natural", 100, 3)
    with pytest.raises(UserError, match=r"the gate set has no photos.*--grow-gate"):
        challenge(version, champion=version, store=empty, processes=1)


def test_a_challenger_whose_bundle_is_damaged_is_never_compared(
    add: Add, register, registered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: shards.Store = add("input", 0, 20)
    old, new = register(0.2), register(0.3)
    download = model_registry.download_model

    def damaged(uri: str, folder: Path) -> Path:
        bundle = download(uri, folder)
        if uri.endswith(f"/{new}"):
            (bundle / "model.json").write_bytes((bundle / "model.json").read_bytes().replace(b"test", b"text"))
        return bundle

    monkeypatch.setattr(model_registry, "download_model", damaged)
    with pytest.raises(SmokeTestFailed, match="checksum"):
        challenge(new, champion=old, store=store, processes=1)
    assert promotions.GATE_TAG not in model_registry.find_version(new).tags
