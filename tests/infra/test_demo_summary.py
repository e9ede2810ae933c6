"""The demo's summary is correct, also if the name of a photo is code or if no photo was sent to the service."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from naturaltone.infra.demo_summary import Answer, Outcome, demo_page, format_summary, summarize
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.ingest import IngestReport
from naturaltone.serving.archive.job import Summary
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import evaluate
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.config import smoke
from naturaltone.training.loop import FitReport
from naturaltone.training.train import TrainResult

NAME = "<script>alert(1)</script>.jpg"


@pytest.fixture(scope="module")
def outcome(enhancer: Enhancer, photo: np.ndarray) -> Outcome:
    def ingested(*rejected: str) -> IngestReport:
        rows = [{"source": name, "role": "input", "reason": "truncated", "detail": "ends early"} for name in rejected]
        rejects = pa.Table.from_pylist(rows, schema=shards.REJECTED)
        return IngestReport(found=3, added=2, unchanged=0, duplicates=0, other_files=0, rejects=rejects)

    losses = {"loss_color": 0.5, "loss_natural": 0.25}
    return Outcome(
        built_in=False,
        ingested={"input": ingested(NAME), "natural": ingested()},
        config=smoke(),
        uses_gpu=False,
        trained=TrainResult(
            bundle=Path("demo/model"),
            run_id="0",
            workers=2,
            report=FitReport(**{field.name: 1 for field in dataclasses.fields(FitReport)}),
            images_per_second=16.0,
            losses_first=losses,
            losses_last=losses,
        ),
        version="1",
        enhancer=enhancer,
        evaluation=evaluate(enhancer, [EvaluationPhoto(name=NAME, input=photo)], held_out=True),
        archived=Summary(unchanged=0, counts={"enhanced": 2, "skipped": 1}, megapixels=3.0, seconds=1.5),
        answer=Answer(status=200, seconds=0.5, photo="1.jpg", model_version="naturaltone/1-abc"),
        seconds={"start": 1.0, "total": 9.0},
        peak_memory_gib=1.25,
    )


def test_the_summary_is_json_with_every_number(outcome: Outcome) -> None:
    summary = json.loads(json.dumps(summarize(outcome)))
    assert summary["photos"] | {"rejects": 1} == {
        "inputs": 2,
        "natural": 2,
        "rejected": 1,
        "rejects": 1,
        "built_in": False,
    }
    assert summary["archive"]["left_alone"] == 1 and summary["archive"]["megapixels_per_second"] == 2.0
    assert summary["serve"] == {"status": 200, "seconds": 0.5, "photo": "1.jpg", "model_version": "naturaltone/1-abc"}


def test_the_table_tells_what_to_do_next(outcome: Outcome) -> None:
    text = format_summary(summarize(outcome), Path("demo"))
    assert "2 inputs, 2 natural, 1 rejected" in text and "HTTP 200 in 0.50 s" in text
    assert "naturaltone enhance MY-PHOTOS ENHANCED --model demo/model" in text


def test_the_table_says_if_no_photo_could_be_sent(outcome: Outcome) -> None:
    summary = summarize(dataclasses.replace(outcome, answer=None))
    assert summary["serve"] is None
    assert "no photo to send: all are left alone" in format_summary(summary, Path("demo"))


def test_a_photos_name_is_text_on_the_page_not_code(outcome: Outcome) -> None:
    page = demo_page(summarize(outcome), outcome, Path("demo"))
    assert NAME not in page and "&lt;script&gt;alert(1)&lt;/script&gt;.jpg" in page
    assert "http://" not in page and "https://" not in page, "the page opens without a network"
