"""Prometheus learns what became of each slot, whatever became of it; and a receiver that is away fails none."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from naturaltone import cli
from naturaltone.infra import exit_codes, local, retrain, slot_figures
from naturaltone.infra.retrain import KEPT, NOTHING_NEW, PROMOTED, SLOT_TAG, AtWork, SlotState
from naturaltone.infra.retrain_config import Metrics, RetrainConfig
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.serving import promotions
from naturaltone.training import model_registry
from naturaltone.training.tracking import TrackingError
from tests.scrapes import Scrape, parse, value

STORE = "/store"
ENDED = 1_790_000_000.0


def finished(outcome: str) -> SlotState:
    return SlotState(name="nightly-1", outcome=outcome, seconds={"ingest": 2.5, "report": 0.5}, ended=ENDED)


def outcome(found: Scrape) -> str:
    series = found["naturaltone_retrain_outcome"]
    assert len(series) == 5
    [labels] = [labels for labels, is_so in series.items() if is_so]
    assert dict(labels)["name"] == "nightly"
    return dict(labels)["outcome"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "naturaltone.prom"


def refuse(run_id: str, number: int, *, store: str = STORE) -> datetime:
    """Register a version that a slot trained and did not promote; returns when."""
    version = MlflowClient().create_model_version(model_registry.MODEL_NAME, "bundle", run_id=run_id)
    number_of = str(version.version)
    tags = {"lineage.store": store, SLOT_TAG: json.dumps({"name": f"nightly-{number}", "outcome": KEPT})}
    for name, said in tags.items():
        model_registry.set_tag(number_of, name, said)
    return model_registry.find_version(number_of).created


def test_a_finished_slot_tells_its_outcome_its_stages_and_the_refusals_since_the_last_promotion(
    registered: str, file: Path
) -> None:
    config = RetrainConfig(store=STORE, metrics=Metrics(textfile=str(file)))
    slot_figures.tell(config, KEPT, finished(KEPT))
    found = parse(file.read_text())
    assert outcome(found) == "refused"
    assert value(found, "naturaltone_retrain_last_slot_timestamp_seconds", name="nightly") == ENDED
    assert value(found, "naturaltone_retrain_stage_seconds", name="nightly", stage="ingest") == 2.5
    assert value(found, "naturaltone_retrain_refused_slots", name="nightly") == 0
    assert value(found, "naturaltone_retrain_refused_since_timestamp_seconds", name="nightly") == 0

    first = refuse(registered, 1)
    refuse(registered, 2)
    refuse(registered, 3, store="/another")
    slot_figures.tell(config, KEPT, finished(KEPT))
    found = parse(file.read_text())
    assert value(found, "naturaltone_retrain_refused_slots", name="nightly") == 2
    since = value(found, "naturaltone_retrain_refused_since_timestamp_seconds", name="nightly")
    assert since == pytest.approx(first.timestamp())

    time.sleep(1.1)  # a promotion is told to the second
    promotions.promote("2", why="a person looked", by="a person", force=True)
    slot_figures.tell(config, NOTHING_NEW, finished(NOTHING_NEW))
    found = parse(file.read_text())
    assert outcome(found) == "nothing_new"
    assert value(found, "naturaltone_retrain_refused_slots", name="nightly") == 0, "a promotion ends the row"
    when = value(found, "naturaltone_retrain_last_promotion_timestamp_seconds", name="nightly")
    assert when == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (finished(PROMOTED), exit_codes.OK, "promoted"),
        (finished(NOTHING_NEW), exit_codes.OK, "nothing_new"),
        (AtWork("process 7"), exit_codes.OK, "held"),
        (TrackingError("the registry is away"), exit_codes.RUN_FAILED, "failed"),
        (RunFailed("a machine failed"), exit_codes.RUN_FAILED, "failed"),
        (UserError("a person must decide"), exit_codes.WRONG_USAGE, "failed"),
    ],
)
def test_each_end_of_the_command_is_told_and_what_a_failed_try_does_not_know_stays(
    registered: str,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: SlotState | Exception,
    code: int,
    told: str,
) -> None:
    def run_slot(*_: object) -> SlotState:
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(retrain, "run_slot", run_slot)
    before = RetrainConfig(store=STORE, metrics=Metrics(textfile=str(file)))
    slot_figures.tell(before, PROMOTED, dataclasses.replace(finished(PROMOTED), ended=ENDED - 86400))
    (tmp_path / "retrain.toml").write_text(f'store = "{STORE}"\n[metrics]\ntextfile = "{file}"')
    assert cli.main(["retrain", str(tmp_path / "retrain.toml"), "--slot", "1"]) == code
    found = parse(file.read_text())
    assert outcome(found) == told
    last = ENDED if isinstance(end, SlotState) else ENDED - 86400
    assert value(found, "naturaltone_retrain_last_slot_timestamp_seconds", name="nightly") == last
    assert file.read_text().count("# TYPE naturaltone_retrain_last_slot_timestamp_seconds") == 1


class Gateway(HTTPServer):
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.taken.append((self.command, self.path, body))
        self.send_response(200)
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_pushgateway_gets_them_by_post_which_keeps_the_others(registered: str, gateway: Gateway) -> None:
    address = f"http://127.0.0.1:{gateway.server_port}"
    slot_figures.tell(RetrainConfig(store=STORE, metrics=Metrics(pushgateway=address)), slot_figures.FAILED)
    [(method, path, body)] = gateway.taken
    assert (method, path) == ("POST", "/metrics/job/naturaltone_retrain/name/nightly")
    assert outcome(parse(body)) == "failed"


@pytest.mark.parametrize("receiver", ["gateway", "folder", "damaged file"])
def test_a_receiver_that_is_away_is_one_warning(
    registered: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, receiver: str
) -> None:
    (tmp_path / "damaged.prom").write_text("{ no metrics")
    metrics = {
        "gateway": Metrics(pushgateway=f"http://127.0.0.1:{local.free_port()}"),
        "folder": Metrics(textfile=str(tmp_path / "absent" / "naturaltone.prom")),
        "damaged file": Metrics(textfile=str(tmp_path / "damaged.prom")),
    }[receiver]
    with caplog.at_level(logging.WARNING, "naturaltone"):
        slot_figures.tell(RetrainConfig(store=STORE, metrics=metrics), PROMOTED, finished(PROMOTED))
    [record] = caplog.records
    assert str(metrics.textfile or metrics.pushgateway) in record.getMessage() and "\n" not in record.getMessage()


def test_without_a_receiver_nothing_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    with local.environment({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}):
        slot_figures.tell(RetrainConfig(store=STORE), PROMOTED, finished(PROMOTED))
    assert not caplog.records
