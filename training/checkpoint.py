"""The format of training checkpoints and model bundles on disk: safetensors and JSON, never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from naturaltone.pipeline.errors import UserError
from naturaltone.training.config import TrainConfig
from naturaltone.training.measures.niqe import NaturalModel
from naturaltone.training.networks import ToneEnhancer
from naturaltone.training.step import GanStep

FORMAT_VERSION = 3
CHECKPOINT_JSON, CHECKPOINT_TENSORS = "checkpoint.json", "checkpoint.safetensors"
BUNDLE_JSON, BUNDLE_TENSORS = "model.json", "generator.safetensors"

# Smaller weights are saved as 0. A CPU multiplies subnormal numbers up to forty times more slowly. No pixel depends on them.
_SMALLEST_WEIGHT = 1e-12
_EMA_PREFIX = "ema/weights/"
_NATURAL_PREFIX = "natural/"


class BundleError(UserError):
    """A model bundle or checkpoint that this version cannot read."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model bundle: G, its description and the digest of its weights.

    generator: in evaluation mode. description: the content of `model.json`. digest: the first 8 hex digits of the SHA-256 of
    the weights file. natural_model: NIQE's model of the natural photos in the training set; None if the bundle has none.
    """

    generator: ToneEnhancer
    description: dict[str, Any]
    digest: str
    natural_model: NaturalModel | None = None

    @property
    def working_resolution(self) -> int:
        """Long side, in pixels, of the photos that G was trained on. G should get photos of this size."""
        return int(self.description["working_resolution"])

    @property
    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.generator.parameters())


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a run after `step` steps.

    tensors: every tensor of `GanStep.state_dict`, by its path. plain: the rest of that state, which JSON can hold. score: how
    good the pictures are, higher is better; NaN if nobody has judged them.
    """

    step: int
    config: TrainConfig
    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    score: float = math.nan

    def generator(self) -> ToneEnhancer:
        """The moving average of G, on the CPU, in evaluation mode."""
        generator = ToneEnhancer(**self.config.architecture)
        generator.load_state_dict(
            {
                name.removeprefix(_EMA_PREFIX): tensor
                for name, tensor in self.tensors.items()
                if name.startswith(_EMA_PREFIX)
            }
        )
        return generator.eval().requires_grad_(False)


def take_snapshot(gan: GanStep, *, step: int) -> Snapshot:
    """Copy the three networks, their optimisers and G's average after `step` steps to the CPU, so that training may go on."""
    tensors: dict[str, Tensor] = {}
    plain = _split_tensors(gan.state_dict(), tensors, "")
    return Snapshot(step=step, config=gan.config, tensors=tensors, plain=plain)


def restore(snapshot: Snapshot, gan: GanStep) -> None:
    """Put a snapshot's state into `gan`."""
    gan.load_state_dict(_join_tensors(snapshot.plain, snapshot.tensors, ""))


def pack(snapshot: Snapshot) -> dict[str, bytes]:
    """Turn a snapshot into the files of a checkpoint, by name. The JSON file holds a checksum of both files."""
    tensors = save(snapshot.tensors)
    document = {
        "format_version": FORMAT_VERSION,
        "step": snapshot.step,
        "config": dataclasses.asdict(snapshot.config),
        "score": None if math.isnan(snapshot.score) else snapshot.score,
        "state": snapshot.plain,
    }
    return {CHECKPOINT_TENSORS: tensors, CHECKPOINT_JSON: _seal(document, tensors)}


def unpack(files: dict[str, bytes], *, uri: str) -> Snapshot:
    """Turn a checkpoint's files into a snapshot.

    `BundleError` if their content has changed or their format version is not ours. It names `uri`.
    """
    document = _open_seal(files[CHECKPOINT_JSON], files[CHECKPOINT_TENSORS], uri)
    return Snapshot(
        step=document["step"],
        config=TrainConfig(**document["config"]),
        tensors=load(files[CHECKPOINT_TENSORS]),
        plain=document["state"],
        score=math.nan if document["score"] is None else document["score"],
    )


def save_bundle(
    folder: Path,
    generator: ToneEnhancer,
    config: TrainConfig,
    *,
    working_resolution: int,
    lineage: dict[str, Any],
    natural_model: NaturalModel | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Write a model bundle. The registry, `--model` and serving read it.

    lineage: where the model comes from. natural_model: NIQE's model of the natural photos in the training set. metrics: the
    results of an evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.where(tensor.abs() < _SMALLEST_WEIGHT, 0.0, tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    if natural_model is not None:
        tensors |= {
            f"{_NATURAL_PREFIX}mean": torch.from_numpy(natural_model.mean),
            f"{_NATURAL_PREFIX}covariance": torch.from_numpy(natural_model.covariance),
        }
    document = {
        "format_version": FORMAT_VERSION,
        "architecture": config.architecture,
        "working_resolution": working_resolution,
        "lineage": lineage,
        "metrics": metrics or {},
        "training": dataclasses.asdict(config),
        "natural_patches": None if natural_model is None else natural_model.num_patches,
    }
    weights = save(tensors)
    (folder / BUNDLE_TENSORS).write_bytes(weights)
    (folder / BUNDLE_JSON).write_bytes(_seal(document, weights))


def load_bundle(folder: Path) -> Bundle:
    """Read a model bundle without running code from its files. `BundleError` names what is wrong with it."""
    try:
        description, weights = (folder / BUNDLE_JSON).read_bytes(), (folder / BUNDLE_TENSORS).read_bytes()
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise BundleError(f"'{folder}': no {missing} here; give the folder of a model bundle") from None
    except OSError as error:
        raise BundleError(f"'{folder}': cannot be read ({error}); check its permissions") from None
    document = _open_seal(description, weights, str(folder))
    try:
        tensors = load(weights)
        natural = {name: tensors.pop(name).numpy() for name in list(tensors) if name.startswith(_NATURAL_PREFIX)}
        generator = ToneEnhancer(**document["architecture"])
        generator.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"'{folder}': not a usable model bundle ({error}); export or download it again") from None
    natural_model = (
        NaturalModel(
            mean=natural[f"{_NATURAL_PREFIX}mean"],
            covariance=natural[f"{_NATURAL_PREFIX}covariance"],
            num_patches=document["natural_patches"],
        )
        if natural
        else None
    )
    return Bundle(
        generator=generator.eval().requires_grad_(False),
        description=document,
        digest=hashlib.sha256(weights).hexdigest()[:8],
        natural_model=natural_model,
    )


def _seal(document: dict[str, Any], tensors: bytes) -> bytes:
    """The document as JSON, with a checksum of itself and its tensors."""
    text = json.dumps(document, sort_keys=True)
    return json.dumps({**document, "sha256": _checksum(text, tensors)}, indent=1).encode()


def _open_seal(data: bytes, tensors: bytes, uri: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
        version, checksum = document["format_version"], document.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"'{uri}': cannot be read ({error}); export or download it again") from None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"'{uri}': format version {version}, this version reads {FORMAT_VERSION}; "
            "use the naturaltone that wrote it, or export the model again"
        )
    if checksum != _checksum(json.dumps(document, sort_keys=True), tensors):
        raise BundleError(
            f"'{uri}': damaged, its checksum does not match its content; download it again, or delete it to go on from "
            "the one before it"
        )
    return dict(document)


def _checksum(text: str, tensors: bytes) -> str:
    return hashlib.sha256(text.encode() + tensors).hexdigest()


def _split_tensors(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Move the tensors of a nested state into `tensors`, each under its path; return the rest, with None for each tensor."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return None
    if isinstance(value, dict):
        return {str(key): _split_tensors(item, tensors, f"{name}/{key}".lstrip("/")) for key, item in value.items()}
    return value


def _join_tensors(plain: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if name in tensors:
        return tensors[name]
    if isinstance(plain, dict):
        # Adam's states have whole numbers as keys. JSON has turned them into strings.
        return {
            int(key) if key.isdigit() else key: _join_tensors(item, tensors, f"{name}/{key}".lstrip("/"))
            for key, item in plain.items()
        }
    return plain
