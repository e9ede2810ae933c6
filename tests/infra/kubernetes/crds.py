"""The schemas of KubeRay's kinds: `crds/*.json.gz` hold version v1 of each, without descriptions.

They are KubeRay's, Apache-2.0, of the version below. To renew them, take the files of the new version from
https://github.com/ray-project/kuberay/tree/v1.7.0/ray-operator/config/crd/bases and run
`python -m tests.infra.kubernetes.crds ray.io_rayjobs.yaml ray.io_raycronjobs.yaml ray.io_rayservices.yaml`.
"""

from __future__ import annotations

import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

KUBERAY = "1.7.0"
FOLDER = Path(__file__).parent / "crds"
KINDS = ("RayJob", "RayCronJob", "RayService")


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    return dict(json.loads(gzip.decompress((FOLDER / f"{kind}.json.gz").read_bytes())))


def compact(definition: dict[str, Any]) -> dict[str, Any]:
    """The schema of v1 in a CustomResourceDefinition, without its descriptions."""
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return dict(_without_descriptions(version["schema"]["openAPIV3Schema"]))


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        # A property may be called `description`; then its value is a schema and no text.
        kept = {name: value for name, value in node.items() if name != "description" or not isinstance(value, str)}
        return {name: _without_descriptions(value) for name, value in kept.items()}
    return [_without_descriptions(each) for each in node] if isinstance(node, list) else node


if __name__ == "__main__":
    for path in sys.argv[1:]:
        definition = yaml.safe_load(Path(path).read_text())
        content = json.dumps(compact(definition), separators=(",", ":"), sort_keys=True).encode()
        # Without a time, so that the same schema is the same file.
        (FOLDER / f"{definition['spec']['names']['kind']}.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
