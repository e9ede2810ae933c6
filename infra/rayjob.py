"""Makes the RayJob of a slot of retraining: what the CronJob in infra/kubernetes runs every night.

The RayJob is a copy of a suspended one, and is named after its slot. Kubernetes has one object of a name, so two pods of the
same slot make one RayJob: the second pod finds it there, and has nothing to do.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from naturaltone.infra.endings import end_with
from naturaltone.infra.exit_codes import OK
from naturaltone.pipeline.errors import RunFailed, UserError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_NAME = 47  # characters; KubeRay refuses longer names of RayJobs
_SECONDS = 30.0
# A Job of a CronJob is called CRONJOB-MINUTE: the scheduled time in minutes since 1970.
_SCHEDULED = re.compile(r".+-(\d{8,9})")


@dataclass(frozen=True, kw_only=True)
class Api:
    """The API server. rayjobs: URL of the namespace's RayJobs."""

    rayjobs: str
    token: str
    trust: ssl.SSLContext | None = None

    @classmethod
    def of_pod(cls, account: Path, environment: Mapping[str, str]) -> Api:
        """The API server as each pod with a service account knows it. `UserError` outside of a pod."""
        try:
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
            namespace, token = ((account / name).read_text().strip() for name in ("namespace", "token"))
            trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
        except (KeyError, OSError) as error:
            raise UserError(f"{error}: this runs only in a pod with the token of a service account") from None
        host = f"[{host}]" if ":" in host else host
        rayjobs = f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        return cls(rayjobs=rayjobs, token=token, trust=trust)

    def ask(self, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """The status and the object of the answer. `RunFailed` if there is none."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS, context=self.trust) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, _object(error.read())
        except (OSError, ValueError) as error:
            raise RunFailed(f"the API server at {url}: {getattr(error, 'reason', error)}; try again later") from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {"message": content.decode(errors="replace").strip()}


def slot_of(job: str, now: float) -> str:
    """The day in UTC for which the Job was scheduled, also if it starts later. By a Job that a person made: today."""
    scheduled = _SCHEDULED.fullmatch(job)
    return f"{datetime.fromtimestamp(60 * int(scheduled[1]) if scheduled else now, UTC):%Y-%m-%d}"


def rayjob_of(template: Mapping[str, Any], slot: str, owner: Mapping[str, str]) -> dict[str, Any]:
    """The RayJob of a slot. owner: name and uid of the Job with which Kubernetes deletes it."""
    name = f"{template['metadata']['name']}-{slot}"
    if len(name) > MAX_NAME:
        raise UserError(f"RayJob '{name}': KubeRay takes at most {MAX_NAME} characters; rename the suspended RayJob")
    spec = template["spec"]
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": name,
            "labels": template["metadata"].get("labels", {}),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", **owner}],
        },
        "spec": {**spec, "suspend": False, "entrypoint": f"{spec['entrypoint'].strip()} --slot {slot}"},
    }


def create(api: Api, template: str, slot: str, owner: Mapping[str, str]) -> str:
    """Make the slot's RayJob from the RayJob `template`; returns what was done.

    `UserError` if the template or a right is missing or the RayJob is refused, `RunFailed` if it may work later.
    """
    url = f"{api.rayjobs}/{template}"
    rayjob = rayjob_of(_answer(url, *api.ask(url)), slot, owner)
    status, answer = api.ask(api.rayjobs, rayjob)
    name = rayjob["metadata"]["name"]
    if status == 409 and answer.get("reason") == "AlreadyExists":
        return f"RayJob {name} exists already; nothing to do"
    _answer(api.rayjobs, status, answer)
    return f"RayJob {name} created"


def _answer(url: str, status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if status in (200, 201):
        return answer
    said = f"the API server at {url} answers {status}: {answer.get('message', '')}".rstrip(" :")
    if status in (400, 401, 403, 404, 422):
        raise UserError(f"{said}; apply infra/kubernetes again, which has the RayJob and the rights")
    raise RunFailed(f"{said}; try again later")


def main(arguments: list[str], environment: Mapping[str, str], account: Path = ACCOUNT) -> int:
    """Make the RayJob of the slot of this pod's Job, from the suspended RayJob that the argument names."""
    try:
        if len(arguments) != 1:
            raise UserError("give the name of the suspended RayJob: python -m naturaltone.infra.rayjob retrain")
        missing = [name for name in ("JOB_NAME", "JOB_UID") if not environment.get(name)]
        if missing:
            raise UserError(f"{missing[0]}: not set; infra/kubernetes/base/retrain.yaml sets it from the pod's labels")
        job = environment["JOB_NAME"]
        api = Api.of_pod(account, environment)
        owner = {"name": job, "uid": environment["JOB_UID"]}
        print(create(api, arguments[0], slot_of(job, time.time()), owner), flush=True)
        return OK
    except (UserError, RunFailed) as error:
        return end_with(error, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
