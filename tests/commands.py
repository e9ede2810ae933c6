"""Whether Ray and MLflow take the arguments that our files give them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

# In a process of its own: both import prometheus_client, which decides for good how this process counts its figures.
_PARSE = """
import json, sys
import click
if sys.argv[1] == "ray":
    from ray.scripts.scripts import cli
else:
    from mlflow.cli import cli

def takes(name, *arguments):
    try:
        return bool(cli.commands[name].make_context(name, list(arguments)))
    except click.exceptions.NoSuchOption:
        return False

print(json.dumps([takes(*command) for command in json.load(sys.stdin)]))
"""


def taken_by(program: str, commands: Sequence[Sequence[str]]) -> list[bool]:
    """For each command of `ray` or `mlflow`, its name first, whether the program takes it. They do not run."""
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, program],
        input=json.dumps([list(command) for command in commands]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: list[bool] = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(commands)
    return found
