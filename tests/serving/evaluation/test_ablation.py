"""Fig. 6 reuses finished models, trains missing ones, and computes whether its claims hold."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import ablation, evaluate, two_samples
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import Bundle, save_bundle
from naturaltone.training.config import TrainConfig


@pytest.fixture
def models(tmp_path: Path, bundle: Bundle, config: TrainConfig) -> Path:
    """A folder with one finished run, `whole`."""
    save(tmp_path / "models" / "whole", bundle, config)
    return tmp_path / "models"


def save(folder: Path, bundle: Bundle, config: TrainConfig, *, store: str = "/photos/store") -> None:
    save_bundle(folder, bundle.generator, config, working_resolution=96, lineage={"store": store})


def ablation_of(means: dict[str, dict[str, float]], **told_apart: list[float]) -> ablation.Ablation:
    """An ablation of two photos with these means: one photo scores 0.5 lower, the other 0.5 higher."""
    scores = {
        name: {stage: {key: value + shift for key, value in row.items()} for stage, row in means.items()}
        for name, shift in (("a", -0.5), ("b", 0.5))
    }
    evaluation = evaluate.Evaluation(
        held_out=True,
        labels=ablation.LABELS,
        judged=ablation.MODELS[-1],
        scores=scores,
        examples=[],
        identity={},
        faces=[],
    )
    unknown = dict.fromkeys(ablation.LABELS, [math.nan] * 3)
    return ablation.Ablation(evaluation=evaluation, told_apart=unknown | told_apart)


def test_the_other_two_models_differ_only_in_the_losses(config: TrainConfig) -> None:
    color, natural = ablation.without_losses(config)
    assert dataclasses.replace(natural, lambda_artifact=config.lambda_artifact) == config
    assert dataclasses.replace(color, lambda_natural=config.lambda_natural) == natural
    assert (color.lambda_natural, color.lambda_artifact, natural.lambda_artifact) == (0, 0, 0)
    assert color.lambda_color == config.lambda_color > 0 and color.seed == config.seed


@pytest.mark.parametrize("name", ["lambda_color", "lambda_natural", "lambda_artifact"])
def test_a_run_without_one_of_the_losses_is_refused(config: TrainConfig, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0: Fig\. 6 needs a run with all three losses"):
        ablation.without_losses(dataclasses.replace(config, **{name: 0.0}))


def test_missing_models_are_planned_beside_the_run(models: Path, config: TrainConfig) -> None:
    plan = ablation.plan_ablation("whole", models=models)
    color, natural = ablation.without_losses(config)
    assert plan.store == "/photos/store"
    assert plan.models == tuple(str(models / name) for name in ("whole-color", "whole-natural", "whole"))
    assert [(one.run_name, one.config, one.bundle) for one in plan.missing] == [
        ("whole-color", color, models / "whole-color"),
        ("whole-natural", natural, models / "whole-natural"),
    ]


def test_a_finished_model_of_the_same_configuration_and_store_is_reused(
    models: Path, bundle: Bundle, config: TrainConfig
) -> None:
    color, natural = ablation.without_losses(config)
    save(models / "whole-color", bundle, color)
    save(models / "whole-natural", bundle, dataclasses.replace(natural, seed=1))
    assert [one.run_name for one in ablation.plan_ablation("whole", models=models).missing] == ["whole-natural"]
    save(models / "whole-natural", bundle, natural, store="/photos/other")
    assert [one.run_name for one in ablation.plan_ablation("whole", models=models).missing] == ["whole-natural"]
    save(models / "whole-natural", bundle, natural)
    assert not ablation.plan_ablation("whole", models=models).missing


def test_an_unknown_run_is_refused_and_leaves_no_database(tmp_path: Path) -> None:
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none.db"}):
        with pytest.raises(ValueError, match=r"there is no tracking at .*give --models M1 M2 M3, or train it with"):
            ablation.plan_ablation("typo", models=tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_the_error_names_a_run_that_tracking_does_not_know(tracking_uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run 'typo' in tracking at 'sqlite:.*naturaltone train STORE --run typo"):
        ablation.plan_ablation("typo", models=tmp_path)


def test_expectations_are_computed() -> None:
    good = {
        "input": {"niqe": 9.0, "naturalness": 0.1, "local_contrast_gain": 1.0},
        "intermediate": {"banding": 3.0, "noise_gain": 2.0},
        "lambda1": {"niqe": 8.0, "naturalness": 0.2, "local_contrast_gain": 3.0},
        "lambda12": {"niqe": 7.0, "naturalness": 0.3, "local_contrast_gain": 2.5, "banding": 2.0, "noise_gain": 2.0},
        "lambda123": {"niqe": 6.0, "naturalness": 0.4, "local_contrast_gain": 2.0, "banding": 1.0, "noise_gain": 2.5},
    }
    verdicts = by_start(ablation.expectations(ablation_of(good)))
    assert verdicts["NIQE"].holds and verdicts["naturalness N"].holds and verdicts["local contrast"].holds
    assert verdicts["NIQE"].numbers == "8 → 7 → 6 (in 2 of 2, then 2 of 2 photos)"
    assert verdicts["banding falls 3"].holds and verdicts["noise gain falls 3"].holds is False
    assert verdicts["banding falls fixed"].holds and verdicts["noise gain falls fixed"].holds is False
    assert verdicts["halo overshoot falls 3"].holds is None and verdicts["halo overshoot falls 3"].numbers == "-"
    assert verdicts["a new"].holds is None and verdicts["a new"].numbers == "needs 8 photos and 8 natural photos"
    text = ablation.format_expectations(list(verdicts.values()))
    assert "fails    noise gain falls 3 → 4: 2 → 2.5" in text and "unknown  halo overshoot" in text

    back = {**good, "lambda12": {**good["lambda12"], "niqe": 8.5}, "lambda123": {**good["lambda123"], "niqe": 8.0}}
    back["lambda123"]["local_contrast_gain"] = 1.05
    verdicts = by_start(ablation.expectations(ablation_of(back)))
    assert verdicts["NIQE"].holds is False and "0 of 2, then 2 of 2" in verdicts["NIQE"].numbers
    assert verdicts["local contrast"].holds is False


def by_start(expected: list[ablation.Expectation]) -> dict[str, ablation.Expectation]:
    starts = (
        "NIQE",
        "naturalness N",
        "local contrast",
        "a new",
        *(f"{m} falls {f}" for m in _ARTEFACTS for f in ("3", "fixed")),
    )
    return {start: one for start in starts for one in expected if one.text.startswith(start)}


_ARTEFACTS = ("banding", "noise gain", "halo overshoot")


def test_fig_6_holds_only_if_new_discriminators_are_right_less_often_from_model_to_model() -> None:
    means = {stage: {"local_contrast_gain": 1.5} for stage in ablation.LABELS}
    right = {"input": [0.7] * 3, "intermediate": [0.75] * 3, "lambda1": [0.7, 0.72, 0.74], "lambda12": [0.65] * 3}
    for last, holds in ((0.6, True), (0.68, False)):
        [expected] = [
            one
            for one in ablation.expectations(ablation_of(means, **right, lambda123=[last] * 3))
            if one.text.startswith("a new discriminator")
        ]
        assert expected.holds is holds
        assert "2 λ1 0.720 ± 0.020, 3 λ1+λ2 0.650 ± 0.000" in expected.numbers


def test_the_four_panels_stand_side_by_side(bundle: Bundle, photo: np.ndarray) -> None:
    photos = [EvaluationPhoto(name=name, input=photo) for name in ("a", "<b>")]
    enhancers = [Enhancer(bundle, version=str(number)) for number in range(3)]
    found = ablation.ablate(enhancers, photos, held_out=True)
    assert list(found.evaluation.table) == ["input", "intermediate", "lambda1", "lambda12", "lambda123"]
    assert found.evaluation.table["lambda1"] == pytest.approx(found.evaluation.table["lambda123"], nan_ok=True)
    page = ablation.ablation_page("first & best", found)
    assert page.count("<img") == 10 and 'name="view" value="all" checked' in page
    assert "ablation of first &amp; best" in page and "<b>b" not in page and "&lt;b&gt;" in page
    for label in ("1 input", "fixed algorithm", "2 λ1", "3 λ1+λ2", "4 λ1+λ2+λ3"):
        assert f"<span>{label}</span>" in page and label in evaluation_report.format_table(found.evaluation)
    assert "expectations hold on these photos" in page and "<td>fails</td>" in page, (
        "three equal models improve nothing"
    )


def test_new_discriminators_judge_each_stage_against_the_natural_photos(
    bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_samples, "_STEPS", 1)
    monkeypatch.setattr(two_samples, "SIDE", 48)
    cuts = [photo[:96, shift : shift + 96] for shift in range(two_samples.LEAST)]
    photos = [EvaluationPhoto(name=str(number), input=cut) for number, cut in enumerate(cuts)]
    enhancers = [Enhancer(bundle, version=str(number)) for number in range(3)]
    found = ablation.ablate(enhancers, photos, natural=photos, held_out=True)
    assert all(0 <= right <= 1 for seeds in found.told_apart.values() for right in seeds)
    assert found.told_apart["lambda1"] == found.told_apart["lambda123"], "the same pictures"
    figures = ablation.to_json(found)
    assert figures["told_apart"] == found.told_apart and figures["expectations"][0]["holds"] is False
    fewer = ablation.ablate(enhancers, photos[1:], natural=photos, held_out=True)
    assert ablation.to_json(fewer)["told_apart"]["lambda1"] == [None] * 3
