"""The Grafana dashboard and the configuration for `serve deploy` speak of things that exist."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase
from ray.serve.schema import ServeDeploySchema

from naturaltone.infra import local
from naturaltone.serving.service import app, metrics

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "infra" / "monitoring" / "naturaltone.json"
CONFIGURATION = ROOT / "infra" / "serve" / "serve.yaml"


def scraped() -> set[str]:
    """The names of all series that Prometheus gets once every figure has been counted."""
    for figure in vars(metrics).values():
        if isinstance(figure, MetricWrapperBase) and figure._labelnames:
            figure.labels(*("" for _ in figure._labelnames))
    port = local.free_port()
    metrics.answer_prometheus(f"127.0.0.1:{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return set(re.findall(r"^(naturaltone_\w+)", text, re.MULTILINE))


def test_every_figure_of_the_dashboard_is_in_a_scrape_and_every_figure_is_shown() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {
        name for panel in panels for query in panel["targets"] for name in re.findall(r"naturaltone_\w+", query["expr"])
    }
    exist = scraped()
    assert shown <= exist
    ends = ("_bucket", "_sum", "_count", "_created")
    families = {re.sub(rf"({'|'.join(ends)})$", "", name) for name in exist}
    assert families == {re.sub(rf"({'|'.join(ends)})$", "", name) for name in shown}


def test_the_configuration_is_one_that_serve_takes() -> None:
    document = yaml.safe_load(CONFIGURATION.read_text())
    [application] = ServeDeploySchema.model_validate(document).applications
    module, _, function = application.import_path.partition(":")
    assert (module, function) == (app.__name__, app.build_app.__name__)
    built = app.build_app(app.AppArgs.model_validate(application.args))._bound_deployment
    [override] = application.deployments
    assert override.name == built.name
    assert set(override.user_config) == set(built._deployment_config.user_config)
