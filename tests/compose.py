"""infra/compose.yaml as Compose reads it: with the variables of infra/.env, and the image's environment below each command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "infra/compose.yaml"
SECRETS = {
    **{
        name: f"secret-{name.lower()}"
        for name in ("S3_SECRET", "RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD")
    },
    "NATURALTONE_API_KEYS": f"{'0123456789abcdef' * 4} tester",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Put variables in: `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; ValueError with the message if one is missing."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == "-":
            return str(rest)
        raise ValueError(f"{name}: {rest or 'is not set'}")

    return _VARIABLE.sub(value, text)


def project(variables: dict[str, str] = SECRETS) -> dict[str, Any]:
    return yaml.safe_load(interpolate(FILE.read_text(), variables))  # type: ignore[no-any-return]


def ours() -> dict[str, dict[str, Any]]:
    """The services that run the image of the Dockerfile, by name."""
    return {name: each for name, each in project()["services"].items() if each["image"] == "naturaltone:cpu"}
