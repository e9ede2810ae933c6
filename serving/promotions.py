"""The champion: which version it was when, by whom and why; promotion and rollback.

The alias `champion` in the registry says which version serves, and moving it is the one act that counts. MLflow keeps no
history of it. So each promotion is written as a tag of the registered model before the alias moves, and is marked as done
after. A process that is killed between leaves a promotion that never was, or one whose mark is missing; `history` tells
them apart by the promotion that came next, or by the alias.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from naturaltone.pipeline.errors import UserError
from naturaltone.training import model_registry
from naturaltone.training.tracking import TrackingError

GATE_TAG = "gate"  # of a version: what the gate said of it last, as JSON
BETTER = "better"  # than the champion that the tag names

_PREFIX = "promotion."
_MOST_CHARACTERS = 5000  # of a tag


class PromotionRefused(UserError):
    """The champion stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A move of the champion. version, previous: the numbers after and before it; previous is None for the first champion.

    by: a person, or the slot of a schedule. numbers: what spoke for it. is_rollback: back to the champion before. is_done:
    the alias has moved.
    """

    version: str
    previous: str | None
    at: str
    by: str
    why: str
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_rollback: bool = False
    is_done: bool = False


def history() -> list[Promotion]:
    """All promotions, the oldest first; also those that were stopped before the alias moved."""
    notes = model_registry.notes()
    found = [Promotion(**json.loads(notes[key])) for key in sorted(notes) if key.startswith(_PREFIX)]
    followers = [each.previous for each in found[1:]] + [model_registry.aliases().get(model_registry.CHAMPION)]
    return [
        dataclasses.replace(each, is_done=each.is_done or each.version == follower)
        for each, follower in zip(found, followers, strict=False)
    ]


def champion() -> str | None:
    """The number of the champion's version; None if there never was a champion.

    `TrackingError` if there was one and it is gone: deleting a version deletes its aliases without a word.
    """
    now = model_registry.aliases().get(model_registry.CHAMPION)
    if now is None and (last := _last(history())):
        raise TrackingError(
            f"the registry has no champion any more: version {last.version} was it, and it or its alias was deleted; promote "
            f"another with `naturaltone models promote VERSION`, or give --model pretrained"
        )
    return now


def promote(
    version: str,
    *,
    why: str,
    by: str = "",
    force: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Promotion:
    """Make a version the champion. If it is the champion already, nothing changes.

    by: default is this user. force: also if the gate has not found it better than the present champion; the history says so.
    check: called just before the promotion is written, and before the alias moves; what it raises stops the promotion.
    `PromotionRefused` without the gate's consent, `TrackingError` if there is no such version or the registry cannot be used.
    """
    found, now = model_registry.find_version(version), model_registry.aliases().get(model_registry.CHAMPION)
    gate = json.loads(found.tags.get(GATE_TAG, "{}"))
    consents = now is None or (gate.get("outcome"), gate.get("champion")) == (BETTER, now)
    if now not in (None, found.version) and not consents and not force:
        said = f"'{gate['why']}', against {gate['champion']}" if gate else "nothing yet"
        raise PromotionRefused(
            f"version {found.version}: the gate has not found it better than champion {now} (it said {said}); "
            f"`naturaltone models compare champion {found.version} --store STORE` asks it, --force promotes without it"
        )
    return _move(
        found.version,
        why=why if consents else f"forced: {why}",
        by=by,
        numbers=gate.get("numbers", {}) if consents else {},
        instead_of=now if now != found.version else None,
        check=check,
    )


def promote_first(version: str) -> None:
    """Make a version the champion if there never was one."""
    if model_registry.CHAMPION not in model_registry.aliases() and not _last(history()):
        promote(version, why="the first model")


def rollback(*, why: str, by: str = "") -> Promotion:
    """Make the version the champion that was it before the present one. `PromotionRefused` if there was none.

    Two rollbacks go back by two promotions.
    """
    now = model_registry.aliases().get(model_registry.CHAMPION)
    line: list[str] = []  # of champions, as if those that were rolled back had never been
    for each in history():
        if each.is_done:
            if each.previous is not None and line[-1:] != [each.previous]:
                line.append(each.previous)  # somebody moved the alias by other means
            if each.is_rollback:
                line.pop()
            if line[-1:] != [each.version]:
                line.append(each.version)
    if now is not None and line[-1:] == [now]:
        line.pop()
    if not line:
        raise PromotionRefused(
            "there is no champion to roll back to: no promotion came before; `naturaltone models promote VERSION` promotes one"
        )
    if line[-1] not in {each.version for each in model_registry.versions()}:
        raise PromotionRefused(
            f"version {line[-1]}, the champion before, was deleted; promote another with `naturaltone models promote VERSION`"
        )
    return _move(line[-1], why=why, by=by, numbers={}, instead_of=now, is_rollback=True)


def _move(
    version: str,
    *,
    why: str,
    by: str,
    numbers: Mapping[str, float],
    instead_of: str | None,
    is_rollback: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Promotion:
    previous = model_registry.aliases().get(model_registry.CHAMPION)
    if previous == version:
        return _finish(version)
    if instead_of is not None and previous != instead_of:
        raise PromotionRefused(
            f"version {version} was compared with champion {instead_of}, but by now {previous or 'nothing'} is the "
            "champion; compare it with that one"
        )
    promotion = Promotion(
        version=version,
        previous=previous,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=by or _user(),
        why=why,
        numbers=numbers,
        is_rollback=is_rollback,
    )
    key = _next_key()
    check()
    _write(key, promotion)
    check()
    model_registry.set_alias(model_registry.CHAMPION, version)
    now = model_registry.aliases().get(model_registry.CHAMPION)  # aliases know no compare-and-set: the last writer wins
    if now != version:
        raise PromotionRefused(
            f"version {version} was made the champion, but somebody else made it {now or 'nothing'} at the same moment; "
            "look at `naturaltone models history` and promote again"
        )
    done = dataclasses.replace(promotion, is_done=True)
    _write(key, done)
    return done


def _finish(version: str) -> Promotion:
    """The promotion that made `version` the champion. Marks it as done, if it was stopped just before that."""
    notes = model_registry.notes()
    for key in sorted((key for key in notes if key.startswith(_PREFIX)), reverse=True):
        promotion = Promotion(**json.loads(notes[key]))
        if promotion.version == version:
            done = dataclasses.replace(promotion, is_done=True)
            if not promotion.is_done:
                _write(key, done)
            return done
    return Promotion(version=version, previous=None, at="", by="", why="", is_done=True)


def _last(promotions: list[Promotion]) -> Promotion | None:
    return next((each for each in reversed(promotions) if each.is_done), None)


def _next_key() -> str:
    """Keys sort in the order of writing, whatever the clocks say. Two processes at the same time get different keys."""
    numbers = [int(key.split(".")[1]) for key in model_registry.notes() if key.startswith(_PREFIX)]
    return f"{_PREFIX}{max(numbers, default=0) + 1:06}.{uuid.uuid4().hex[:8]}"


def _write(key: str, promotion: Promotion) -> None:
    text = json.dumps(dataclasses.asdict(promotion))
    if len(text) > _MOST_CHARACTERS:
        raise UserError(
            f"--why and --by have {len(promotion.why) + len(promotion.by):,} characters; write at most 4,000"
        )
    model_registry.set_note(key, text)


def _user() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"
