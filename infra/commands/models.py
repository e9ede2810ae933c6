"""`naturaltone models`: the registered models, which of them is the champion, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from naturaltone.infra.exit_codes import OK
from naturaltone.pipeline.errors import UserError

if TYPE_CHECKING:
    from naturaltone.serving.promotions import Promotion
    from naturaltone.training.model_registry import ModelVersion

HELP = "show the registered models, and choose the champion: the model that services and commands use"
EXAMPLE = """example: naturaltone models list
         naturaltone models promote 7 --why "better on our night photos"
         naturaltone models rollback

`naturaltone models ACTION --help` lists the options of an action."""

_VERSION = "a number, or an alias such as champion or challenger"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")

    def add(name: str, act: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=what, description=f"{what.capitalize()}.")
        action.set_defaults(act=act)
        return action

    listed = add("list", _list, "list all versions, the newest first")
    shown = add("show", _show, "show where a version comes from, how it was trained and what was measured")
    shown.add_argument(
        "version", metavar="VERSION", nargs="?", default="champion", help=f"{_VERSION} (default: champion)"
    )
    compared = add("compare", _compare, "show in what two versions differ, and with --store whether B is better than A")
    compared.add_argument("first", metavar="A", help=_VERSION)
    compared.add_argument("second", metavar="B", help=_VERSION)
    compared.add_argument(
        "--store",
        metavar="STORE",
        help="judge both on the gate set of this store: its held-out photos of when the gate was first asked; the verdict "
        "is kept with B, and lets `promote` promote it",
    )
    compared.add_argument(
        "--sheet", metavar="FILE", help="with --store, also write an HTML page with the verdict and photos"
    )
    promoted = add("promote", _promote, "make a version the champion; running services follow within seconds")
    promoted.add_argument("version", metavar="VERSION", help=_VERSION)
    promoted.add_argument("--why", metavar="TEXT", required=True, help="the reason, for `models history`")
    promoted.add_argument(
        "--force", action="store_true", help="promote it even if the gate has not found it better than the champion"
    )
    rolled = add("rollback", _rollback, "make the version the champion that was it before; again, the one before that")
    rolled.add_argument("--why", metavar="TEXT", default="rolled back", help="the reason, for `models history`")
    for each in (promoted, rolled):
        each.add_argument("--by", metavar="NAME", default="", help="who decides this (default: this user and machine)")
    told = add("history", _history, "show which version was the champion when, by whom and why")
    for each in (listed, shown, compared, told):
        each.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    from naturaltone.training import tracking

    tracking.give_up_soon()
    return int(options.act(options))


def _list(options: argparse.Namespace) -> int:
    from naturaltone.serving import promotions
    from naturaltone.training import model_registry

    versions, named = model_registry.versions(), _names()
    if options.json:
        print(json.dumps([{**_facts(each), "aliases": named.get(each.version, [])} for each in versions], indent=1))
    elif not versions:
        print("no model is registered yet; `naturaltone train` registers one")
    else:
        rows = [["VERSION", "ALIASES", "RUN", "RECIPE", "STEPS", "CREATED (UTC)"]]
        for each in versions:
            facts = each.tags
            rows.append(
                [
                    each.version,
                    ", ".join(named.get(each.version, [])) or "-",
                    facts.get("lineage.run", "-"),
                    facts.get("lineage.recipe", "-"),
                    facts.get("training.steps", "-"),
                    f"{each.created:%Y-%m-%d %H:%M}",
                ]
            )
        print(_columns(rows))
    promotions.champion()  # says so if it was deleted
    return OK


def _show(options: argparse.Namespace) -> int:
    from naturaltone.training import model_registry

    version = model_registry.find_version(options.version)
    facts = _facts(version) | {"aliases": _names().get(version.version, [])} | model_registry.measures_of(version)
    print(json.dumps(facts, indent=1) if options.json else _columns([[name, _text(facts[name])] for name in facts]))
    return OK


def _compare(options: argparse.Namespace) -> int:
    from naturaltone.training import model_registry

    if options.store:
        return _judge(options)
    if options.sheet:
        raise UserError("--sheet needs --store: the page shows how both models do on the photos of a store")
    both = [model_registry.find_version(name) for name in (options.first, options.second)]
    facts = [_facts(each) | model_registry.measures_of(each) for each in both]
    names = [name for name in dict.fromkeys([*facts[0], *facts[1]]) if facts[0].get(name) != facts[1].get(name)]
    if options.json:
        print(json.dumps({name: [each.get(name) for each in facts] for name in names}, indent=1))
    else:
        print(_columns([[name, *(_text(each.get(name, "-")) for each in facts)] for name in names]))
        print("the same photos by both: naturaltone evaluate " + " PHOTOS --against ".join(each.uri for each in both))
    return OK


def _judge(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import cores
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.dataset import shards
    from naturaltone.serving.evaluation.challenge import challenge
    from naturaltone.serving.evaluation.gate_page import format_verdict
    from naturaltone.training import model_registry

    storage.check_file_writable(options.sheet)
    champion, version = (model_registry.find_version(name).version for name in (options.first, options.second))
    if champion == version:
        raise UserError(f"'{options.first}' and '{options.second}' are both version {version}; give two versions")
    told = challenge(version, champion=champion, store=shards.open_store(options.store), processes=cores())
    if options.sheet:
        storage.write_bytes(options.sheet, told.page.encode())
    if options.json:
        print(json.dumps({"version": version, "champion": champion, **told.verdict.to_json()}, indent=1))
    else:
        print(format_verdict(told.verdict))
        print(f"version {version} against {champion}: {told.verdict.why}")
    return OK


def _promote(options: argparse.Namespace) -> int:
    from naturaltone.serving import promotions

    return _tell(promotions.promote(options.version, why=options.why, by=options.by, force=options.force))


def _rollback(options: argparse.Namespace) -> int:
    from naturaltone.serving import promotions

    return _tell(promotions.rollback(why=options.why, by=options.by))


def _tell(promotion: Promotion) -> int:
    before = f", instead of {promotion.previous}" if promotion.previous else ""
    print(f"version {promotion.version} is the champion{before}; services that follow it take it within seconds")
    return OK


def _history(options: argparse.Namespace) -> int:
    from naturaltone.serving import promotions

    history = promotions.history()
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in history], indent=1))
    elif not history:
        print("no model was promoted yet")
    else:
        rows = [["SINCE (UTC)", "CHAMPION", "BEFORE", "BY", "WHY", "NUMBERS"]]
        for each in history:
            why = f"rollback: {each.why}" if each.is_rollback else each.why
            rows.append(
                [
                    each.at[:16].replace("T", " "),
                    each.version,
                    each.previous or "-",
                    each.by,
                    why if each.is_done else f"{why} (stopped before it was done)",
                    " ".join(f"{name} {value:+.4g}" for name, value in each.numbers.items()) or "-",
                ]
            )
        print(_columns(rows))
    promotions.champion()  # says so if it was deleted
    return OK


def _facts(version: ModelVersion) -> dict[str, object]:
    created = version.created.isoformat(timespec="seconds")
    return {
        "version": version.version,
        "created": created,
        "mlflow_run": version.run_id,
        **dict(sorted(version.tags.items())),
    }


def _names() -> dict[str, list[str]]:
    """The aliases of each version that has some."""
    from naturaltone.training import model_registry

    named: dict[str, list[str]] = {}
    for alias, version in sorted(model_registry.aliases().items()):
        named.setdefault(version, []).append(alias)
    return named


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return (", ".join(map(str, value)) or "-") if isinstance(value, list) else str(value)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
