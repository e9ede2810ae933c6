"""The dashboards, the alerts and the runbook speak of figures that exist; each alert fires when it should, and not else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from naturaltone.infra import local, slot_figures
from naturaltone.infra.retrain import KEPT, SlotState
from naturaltone.infra.retrain_config import Metrics, RetrainConfig
from naturaltone.pipeline import figures, s3, storage
from naturaltone.pipeline.dataset import ingest
from naturaltone.pipeline.figures import Counter, Gauge
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive import figures as archive_figures
from naturaltone.serving.archive import report
from naturaltone.serving.service import app, guard, metrics
from naturaltone.training import figures as training_figures
from tests.fault_proxy import Faults, fault_proxy
from tests.scrapes import parse, scrape_until, value
from tests.test_architecture import ROOT

MONITORING = ROOT / "infra" / "monitoring"
DASHBOARDS = sorted(MONITORING.glob("*.json"))
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES}
TESTS = sorted(MONITORING.glob("*.test.yaml"))
CONFIGURATION = ROOT / "infra" / "serve" / "serve.yaml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
_ENDS = re.compile(r"_(bucket|sum|count|created)$")


def queries(dashboard: Path) -> list[str]:
    """The expressions of a dashboard's panels and of its variables."""
    document = json.loads(dashboard.read_text())
    variables = [each["query"]["query"] for each in document["templating"]["list"] if each["type"] == "query"]
    return [query["expr"] for panel in document["panels"] for query in panel["targets"]] + variables


def named(expressions: list[str]) -> set[str]:
    return {name for each in expressions for name in re.findall(r"\b(?:ray_)?naturaltone_\w+", each)}


def of_the_service() -> set[str]:
    """What a scrape of the service has once every figure has been counted."""
    for figure in vars(metrics).values():
        if isinstance(figure, metrics.Counter | metrics.Gauge | metrics.Histogram) and figure._labelnames:
            figure.labels(*("" for _ in figure._labelnames))
    port = local.free_port()
    metrics.answer_prometheus(f"127.0.0.1:{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return set(parse(answer.read().decode()))


def of_ray() -> set[str]:
    """What Ray exports. The tests of each module, and one below, find these in a scrape of a real Ray."""
    modules = (figures, ingest, training_figures, archive_figures)
    found = {each for module in modules for each in vars(module).values() if isinstance(each, Gauge | Counter)}
    return {figure.series for figure in found}


def of_a_slot(folder: Path) -> set[str]:
    """What a slot writes. It needs a registry with a promotion."""
    file = folder / "slot.prom"
    state = SlotState(name="nightly-1", outcome=KEPT, seconds={"ingest": 1.0}, ended=1.0)
    slot_figures.tell(RetrainConfig(store="/store", metrics=Metrics(textfile=str(file))), KEPT, state)
    return set(parse(file.read_text()))


def test_dashboards_and_alerts_name_only_what_is_exported_and_every_figure_is_shown(
    registered: str, tmp_path: Path
) -> None:
    exported = of_the_service() | of_ray() | of_a_slot(tmp_path)
    shown = named([query for dashboard in DASHBOARDS for query in queries(dashboard)])
    assert named([rule["expr"] for rule in RULES]) <= exported and shown <= exported
    assert {_ENDS.sub("", name) for name in exported} == {_ENDS.sub("", name) for name in shown}


def test_prometheus_reads_what_a_real_ingest_counted_and_what_s3_refused(
    store: str, object_store: local.ObjectStore
) -> None:
    faults = fault_proxy(object_store.environment["AWS_ENDPOINT_URL"], Faults(share=1, kinds=("slow_down",)))
    with faults as proxy, local.environment({"AWS_ENDPOINT_URL": proxy.url}), pytest.raises(OSError, match="failed 6"):
        s3.read(storage.join(object_store.uri, "monitored"))
    ours = (ingest.FILES_READ, ingest.INGESTED, figures.S3_RETRIES, figures.S3_FAILURES)
    found = scrape_until(
        {figure.series for figure in ours},
        lambda found: value(found, ingest.FILES_READ.series, role="natural") >= 24,  # of several workers
    )
    assert value(found, ingest.INGESTED.series, role="input", outcome="added", reason="") >= 24
    assert value(found, figures.S3_FAILURES.series, why="503 SlowDown") >= 1
    assert value(found, figures.S3_RETRIES.series, why="503 SlowDown") >= 5


def test_the_values_that_expressions_ask_for_exist() -> None:
    expressions = [rule["expr"] for rule in RULES] + [query for each in DASHBOARDS for query in queries(each)]
    asked = [found for each in expressions for found in re.findall(r'(\w+)(?:=|!=)"([^"$]+)"', each)]
    known = {
        "reason": {str(reason) for reason in Reason},
        "status": {report.FAILED},
        "path": {guard.ENHANCE},
    }
    assert asked and not [(label, said) for label, said in asked if said not in known[label]]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_small_and_each_panel_can_be_read(dashboard: Path) -> None:
    document = json.loads(dashboard.read_text())
    panels = document["panels"]
    assert len(panels) <= 12 and document["uid"].startswith("naturaltone-")
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    variables = {each["name"] for each in document["templating"]["list"]}
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["datasource"]["uid"] == "${source}"
        used = {name for query in panel["targets"] for name in re.findall(r"\$(\w+)", query["expr"])}
        assert used <= variables | {"__rate_interval"}


@pytest.fixture
def promtool(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs promtool on a copy of the rules and their tests."""
    if not shutil.which("promtool"):
        pytest.skip("the tests of the alerts take promtool (`apt-get install prometheus`)")
    for path in MONITORING.glob("*.yaml"):
        shutil.copy(path, tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    yield run


def test_each_alert_fires_when_it_should_and_not_else(promtool: Callable[..., Any]) -> None:
    done = promtool("test", "rules", *(path.name for path in TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration(promtool: Callable[..., Any]) -> None:
    done = promtool("check", "config", "prometheus.yaml")
    assert done.returncode == 0 and "11 rules found" in done.stdout, done.stdout + done.stderr


def cases_of(path: Path) -> list[dict[str, Any]]:
    return [case for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]]


def test_each_alert_is_shown_firing_and_not_firing() -> None:
    cases = [case for path in TESTS for case in cases_of(path)]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(ALERTS)


@pytest.mark.parametrize(
    "mutate",
    [lambda expr: f"({expr}) < -Inf", lambda expr: f"({expr}) or vector(1)"],
    ids=["never fires", "always fires"],
)
def test_the_tests_of_each_alert_notice_a_rule_that_is_wrong(
    promtool: Callable[..., Any], tmp_path: Path, mutate: Callable[[str], str]
) -> None:
    """All rules are wrong at once, since promtool names each alert that fails: 2 calls take a tenth of the time of 22."""
    document = yaml.safe_load((tmp_path / "alerts.yaml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = mutate(rule["expr"])
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(document))
    assert promtool("check", "rules", "alerts.yaml").returncode == 0
    done = promtool("test", "rules", *(path.name for path in TESTS))
    said = done.stdout + done.stderr
    assert done.returncode == 1 and {alert for alert in ALERTS if f"alertname: {alert}," in said} == set(ALERTS), said


def paragraphs() -> dict[str, str]:
    """The text below each heading of an alert in the runbook."""
    parts = re.split(r"^### (\w+)\n", RUNBOOK, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_alert_has_a_paragraph_and_each_paragraph_an_alert() -> None:
    assert sorted(paragraphs()) == sorted(ALERTS)
    for alert, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("alert", ALERTS)
def test_a_paragraph_says_what_it_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    text = paragraphs()[alert]
    assert [text.count(f"**{part}**") for part in ("Means", "Look", "Do")] == [1, 1, 1]


def test_the_configuration_is_one_that_serve_takes() -> None:
    document = yaml.safe_load(CONFIGURATION.read_text())
    [application] = ServeDeploySchema.model_validate(document).applications
    module, _, function = application.import_path.partition(":")
    assert (module, function) == (app.__name__, app.build_app.__name__)
    built = app.build_app(app.AppArgs.model_validate(application.args))._bound_deployment
    [override] = application.deployments
    assert override.name == built.name
    assert set(override.user_config) == set(built._deployment_config.user_config)
