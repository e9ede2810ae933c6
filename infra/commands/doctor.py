"""`naturaltone doctor`: what this machine, its servers or its cluster lack, and the remedy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from naturaltone.infra.exit_codes import OK, RUN_FAILED

if TYPE_CHECKING:
    from naturaltone.infra.doctor.finding import Finding

HELP = "check this machine, the store, the tracking server and the cluster, and say what is missing and how to mend it"
EXAMPLE = """example: naturaltone doctor
         naturaltone doctor s3://photos/store --deployment

Each check prints one line: ok, warning or failure, what was found, and the remedy. The exit code is 3 if a check failed, else
0. The variables MLFLOW_TRACKING_URI, AWS_* and RAY_ADDRESS say where the servers are, as for every other command."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", nargs="?", help="also check this folder or s3:// prefix of a store")
    parser.add_argument(
        "--deployment",
        action="store_true",
        help="several machines will work together: what only they need is then a failure and not a warning, such as API keys, "
        "Ray's token, conditional writes and a tracking server",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.doctor import finding

    findings = []
    for each in _checks(options.store, for_deployment=options.deployment):
        findings.append(each)
        if not options.json:
            print(finding.format_line(each), flush=True)
    if options.json:
        print(finding.format_json(findings))
    return RUN_FAILED if finding.worst(findings) is finding.Status.FAILURE else OK


def _checks(store: str | None, *, for_deployment: bool) -> Iterator[Finding]:
    from naturaltone.infra import cluster
    from naturaltone.infra.doctor import machine, nodes, servers

    yield from machine.check_machine()
    if store is not None:
        yield from servers.check_storage(store, for_deployment=for_deployment)
        yield servers.check_store(store)
    yield from servers.check_tracking(for_deployment=for_deployment)
    yield servers.check_keys(for_deployment=for_deployment)
    if address := os.environ.get(cluster.ADDRESS):
        yield from nodes.check_cluster(address, store, for_deployment=for_deployment)
