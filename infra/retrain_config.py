"""The configuration of scheduled retraining: a TOML file, checked as a whole before anything runs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from naturaltone.infra import launch
from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError
from naturaltone.training.config import RECIPES, TrainConfig, make_config

_UNITS = {"s": 1, "min": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h)")
_URL = re.compile(r"https?://\S+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


class WrongConfig(UserError):
    """The file has mistakes. lines: one for each, which name the field, the value and the remedy."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def _seconds(value: object) -> float:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found or not float(found[1]):
        raise ValueError("write a number and its unit (s, min or h), such as '90 min'")
    return float(found[1]) * _UNITS[found[2]]


def _one_of(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(what)
        return value

    return AfterValidator(check)


def _place(value: str, info: ValidationInfo) -> str:
    """A URI; a relative path is below the folder of the file."""
    if not value:
        raise ValueError("write a folder or an s3:// prefix")
    folder: str = (info.context or {}).get("folder", "")
    return storage.absolute(value if "://" in value else os.path.join(folder, os.path.expanduser(value)))


def _workers(value: object) -> object:
    return launch.parse_workers(str(value)) if isinstance(value, int | str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Place = Annotated[str, AfterValidator(_place)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ingest(_Part):
    """New photos. The other fields: as `naturaltone ingest` has them; a store keeps those that it was made with."""

    inputs: list[Place] = []
    natural: list[Place] = []
    long_side: int = Field(default=shards.LONG_SIDE, ge=shards.MIN_LONG_SIDE, le=shards.MAX_LONG_SIDE)
    algorithm: Annotated[str, _one_of(*tone.ALGORITHMS)] | None = None
    intermediates: Annotated[str, _one_of(*shards.INTERMEDIATES)] = "cached"
    at_least: int = Field(default=1, ge=0)
    """Photos that the store must have more or fewer than at the last training; else the slot ends. 0 trains in every slot."""


class Train(_Part):
    """How a slot trains on from the champion."""

    recipe: Annotated[str, _one_of(*RECIPES)] = "small"
    set: dict[str, int | float | str | bool] = {}
    workers: Annotated[Any, BeforeValidator(_workers)] = None
    discriminator_warmup: int = Field(default=200, ge=0)
    """Steps in which only D and C learn, where they start anew because the champion's checkpoint is gone."""

    def config(self) -> TrainConfig:
        return make_config(self.recipe, [f"{name}={value}" for name, value in self.set.items()])


class Gate(_Part):
    """The stricter, the more slots a year has."""

    slots_per_year: float = Field(default=365, ge=1, le=100_000)
    processes: int | None = Field(default=None, ge=1)


class Limits(_Part):
    """The longest time of each stage. A stage that takes longer ends the command; the next one goes on."""

    ingest: Seconds = 2 * 3600.0
    train: Seconds = 8 * 3600.0
    gate: Seconds = 3600.0
    promote: Seconds = 300.0


class Report(_Part):
    """Who is told. secret_variable: the environment variable with the key of the webhook's signature."""

    webhook: Annotated[str, _matching(_URL, "write an http:// or https:// URL")] | None = None
    secret_variable: str = "NATURALTONE_WEBHOOK_SECRET"


class Metrics(_Part):
    """Where Prometheus learns what became of a slot. pushgateway: its URL. textfile: a file for node_exporter."""

    pushgateway: Annotated[str, _matching(_URL, "write an http:// or https:// URL")] | None = None
    textfile: (
        Annotated[
            str,
            _matching(
                re.compile(r"/.*\.prom"), "write the absolute path of a file .prom in node_exporter's textfile folder"
            ),
        ]
        | None
    ) = None


class RetrainConfig(_Part):
    """The whole file."""

    name: Annotated[
        str, _matching(_NAME, "use up to 41 letters, digits, '.', '_' and '-', and begin with a letter or digit")
    ] = "nightly"
    store: Place
    ingest: Ingest = Ingest()
    train: Train = Train()
    gate: Gate = Gate()
    limits: Limits = Limits()
    report: Report = Report()
    metrics: Metrics = Metrics()


def read_config(path: str) -> RetrainConfig:
    """Read and check the file. `WrongConfig` with a line for each mistake."""
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise WrongConfig([f"'{path}': cannot be read ({error.strerror}); give the path of a retrain.toml"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongConfig([f"'{path}': not TOML ({error})"]) from None
    try:
        config = RetrainConfig.model_validate(document, context={"folder": str(Path(path).absolute().parent)})
    except ValidationError as error:
        raise WrongConfig([_said(path, dict(each)) for each in error.errors()]) from None
    _raises(path, "train", config.train.config)
    return config


def _raises(path: str, field: str, check: Callable[[], object]) -> None:
    try:
        check()
    except UserError as error:
        raise WrongConfig([f"'{path}': [{field}] {_plain(error)}"]) from None


def _plain(message: object) -> str:
    """A message without the name of a command's option, which the file does not have."""
    return re.sub(r"^--workers '[^']*': |--(?=set )", "", str(message))


def _said(path: str, mistake: dict[str, Any]) -> str:
    *tables, field = map(str, mistake["loc"])
    where = f"'{path}': {f'[{tables[0]}] ' if tables else ''}{'.'.join([*tables[1:], field])}"
    if mistake["type"] == "missing":
        return f"{where} is missing; add it (`naturaltone retrain --example` shows every field)"
    if mistake["type"] == "extra_forbidden":
        known = ", ".join(_fields(tables))
        return f"{where} is unknown; use {known}"
    what = _plain(mistake["msg"].removeprefix("Value error, "))
    return f"{where} = {mistake['input']!r}: {what.replace('Input should', 'must')}"


def _fields(tables: list[str]) -> list[str]:
    part: Any = RetrainConfig
    for table in tables:
        part = part.model_fields[table].annotation
    return list(part.model_fields)
