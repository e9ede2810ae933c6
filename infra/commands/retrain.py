"""`naturaltone retrain`: one scheduled slot of retraining."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from importlib.resources import files

from naturaltone.infra.exit_codes import OK, WRONG_USAGE
from naturaltone.pipeline.errors import RunFailed, UserError

HELP = "retrain on a schedule: ingest, train on, compare with the champion, promote only what is better"
EXAMPLE = """example: naturaltone retrain --example > retrain.toml
         naturaltone retrain retrain.toml --dry-run

Give the same command every night, by a systemd timer or cron (docs/retraining.md). It exits with 0 also if there was nothing
new, if the new model was not better, or if another process is at work; with 3 if the same command can go on later."""
_SLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml", nargs="?", help="what to ingest, train and report")
    parser.add_argument(
        "--example", action="store_true", help="print a CONFIG.toml that explains every field, and stop"
    )
    parser.add_argument(
        "--slot",
        metavar="NAME",
        help="the slot's name; the name of a stopped slot goes on with it, that of a finished one does nothing (default: "
        "today's date in UTC)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what the slot would do")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra import retrain, slot_figures
    from naturaltone.infra.retrain_config import WrongConfig, read_config
    from naturaltone.pipeline.storage import StorageError
    from naturaltone.training.tracking import TrackingError

    if options.example:
        print(files("naturaltone.infra").joinpath("retrain.example.toml").read_text(), end="")
        return OK
    if options.config is None:
        raise UserError("CONFIG.toml is missing; `naturaltone retrain --example > retrain.toml` writes one to change")
    try:
        config = read_config(options.config)
    except WrongConfig as error:
        for line in error.lines:
            print(f"naturaltone: {line}", file=sys.stderr)
        return WRONG_USAGE
    slot = options.slot or f"{datetime.now(UTC):%Y-%m-%d}"
    if not _SLOT.fullmatch(slot):
        raise UserError(f"--slot '{slot}': use letters, digits, '.', '_' and '-'")
    if options.dry_run:
        print("\n".join(retrain.describe(config, slot)))
        return OK
    try:
        state = retrain.run_slot(config, slot)
    except retrain.AtWork as error:
        slot_figures.tell(config, slot_figures.HELD)
        print(f"slot {config.name}-{slot}: not run: {error}")
        return OK
    except (StorageError, TrackingError) as error:  # when the server is back, the same command goes on
        slot_figures.tell(config, slot_figures.FAILED)
        raise RunFailed(f"slot {config.name}-{slot}: {error}; then give the same command again") from error
    except Exception:
        slot_figures.tell(config, slot_figures.FAILED)
        raise
    slot_figures.tell(config, state.outcome or "", state)
    print(state.line)
    return OK
