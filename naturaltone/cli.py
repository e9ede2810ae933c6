"""The command line of naturaltone: parses the arguments, runs the command, and returns its exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

from naturaltone import __version__
from naturaltone.infra.commands import (
    ablation,
    bench,
    demo,
    doctor,
    enhance,
    evaluate,
    ingest,
    models,
    retrain,
    serve,
    store,
    train,
)

_COMMANDS = {
    "demo": demo,
    "ingest": ingest,
    "store": store,
    "train": train,
    "evaluate": evaluate,
    "models": models,
    "retrain": retrain,
    "ablation": ablation,
    "enhance": enhance,
    "bench": bench,
    "serve": serve,
    "doctor": doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (see `infra.exit_codes`), or 128 + the number of the signal that stopped it."""
    options = _parser().parse_args(arguments)
    if options.s3_endpoint:
        os.environ["AWS_ENDPOINT_URL"] = options.s3_endpoint
    # An absolute path, because Ray's workers may run in another folder.
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    from naturaltone.infra.endings import end_with
    from naturaltone.infra.local import interruptible
    from naturaltone.infra.log import command_log

    log_file = None
    with contextlib.ExitStack() as logging:
        try:
            log_file = logging.enter_context(command_log(options.command))
            with interruptible():
                return int(options.run_command(options))
        except Exception as error:
            return end_with(error, log_file)
        except KeyboardInterrupt as interrupt:
            number = signal.SIGTERM if str(interrupt) == "SIGTERM" else signal.SIGINT
            print("naturaltone: interrupted", file=sys.stderr)
            return 128 + number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="naturaltone", description="Learns to enhance the tone of photos.")
    parser.add_argument("--version", action="version", version=f"naturaltone {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--s3-endpoint", metavar="URL", help="URL of the S3 server (default: the variable AWS_ENDPOINT_URL, else AWS)"
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            epilog=command.EXAMPLE,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(run_command=command.run)
    return parser
