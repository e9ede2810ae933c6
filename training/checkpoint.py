"""The one on-disk format, safetensors and JSON (never pickle): training checkpoints and model bundles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from training.config import TrainConfig
from training.networks import ToneEnhancer
from training.step import GanStep

FORMAT_VERSION = 1
CHECKPOINT_JSON, CHECKPOINT_TENSORS = "checkpoint.json", "checkpoint.safetensors"
BUNDLE_JSON, BUNDLE_TENSORS = "model.json", "generator.safetensors"

# A CPU multiplies subnormal weights up to forty times slower; no pixel depends on them.
_SMALLEST_WEIGHT = 1e-12


class BundleError(ValueError):
    """A model bundle or checkpoint that this version cannot read."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model bundle: G in evaluation mode, `model.json` as `description`, and a digest of the weights that names them."""

    generator: ToneEnhancer
    description: dict[str, Any]
    digest: str

    @property
    def working_resolution(self) -> int:
        """Long side, in pixels, of the photos that G was trained on and is to see."""
        return int(self.description["working_resolution"])

    @property
    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.generator.parameters())


def save_checkpoint(folder: Path, gan: GanStep, *, step: int) -> None:
    """Write the three networks, their optimisers and the number of steps done into `folder`."""
    tensors: dict[str, Tensor] = {}
    plain = _split_tensors(gan.state_dict(), tensors, "")
    save_file(tensors, folder / CHECKPOINT_TENSORS)
    document = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "config": dataclasses.asdict(gan.config),
        "state": plain,
    }
    (folder / CHECKPOINT_JSON).write_text(json.dumps(document))


def load_checkpoint(folder: Path, gan: GanStep) -> int:
    """Put a checkpoint's state into `gan`; returns the number of steps done."""
    document = _read_json(folder / CHECKPOINT_JSON)
    tensors = load_file(folder / CHECKPOINT_TENSORS, device=str(gan.device))
    gan.load_state_dict(_join_tensors(document["state"], tensors, ""))
    return int(document["step"])


def checkpoint_generator(folder: Path) -> tuple[ToneEnhancer, TrainConfig]:
    """G alone from a training checkpoint, on the CPU."""
    config = TrainConfig(**_read_json(folder / CHECKPOINT_JSON)["config"])
    generator = ToneEnhancer(width=config.width, residual_blocks=config.residual_blocks)
    prefix = "generator/weights/"
    tensors = load_file(folder / CHECKPOINT_TENSORS)
    generator.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    )
    return generator.eval(), config


def save_bundle(
    folder: Path, generator: ToneEnhancer, config: TrainConfig, *, working_resolution: int, lineage: dict[str, Any]
) -> None:
    """Write a model bundle: what the registry, `--model` and serving read."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: torch.where(tensor.abs() < _SMALLEST_WEIGHT, 0.0, tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    save_file(weights, folder / BUNDLE_TENSORS)
    description = {
        "format_version": FORMAT_VERSION,
        "architecture": {"width": config.width, "residual_blocks": config.residual_blocks},
        "working_resolution": working_resolution,
        "lineage": lineage,
        "training": dataclasses.asdict(config),
    }
    (folder / BUNDLE_JSON).write_text(json.dumps(description, indent=1))


def load_bundle(folder: Path) -> Bundle:
    """Read a model bundle; `BundleError` names what is wrong with it. Runs no code from the files."""
    description = _read_json(folder / BUNDLE_JSON)
    try:
        generator = ToneEnhancer(**description["architecture"])
        weights = (folder / BUNDLE_TENSORS).read_bytes()
        generator.load_state_dict(load(weights))
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"'{folder}': not a usable model bundle ({error}); export or download it again") from None
    digest = hashlib.sha256(weights).hexdigest()[:8]
    return Bundle(generator=generator.eval().requires_grad_(False), description=description, digest=digest)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise BundleError(f"'{path.parent}': no {path.name} here; give the folder of a model bundle") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"'{path}': cannot be read ({error}); export or download it again") from None
    if document.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"'{path}': format version {document.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "use the naturaltone that wrote it, or export the model again"
        )
    return document


def _split_tensors(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Move the tensors of a nested state into `tensors` under their path, leaving null; the rest is plain JSON."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous()
        return None
    if isinstance(value, dict):
        return {str(key): _split_tensors(item, tensors, f"{name}/{key}".lstrip("/")) for key, item in value.items()}
    return value


def _join_tensors(plain: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if name in tensors:
        return tensors[name]
    if isinstance(plain, dict):
        # Adam numbers its states; JSON has made the numbers strings.
        return {
            int(key) if key.isdigit() else key: _join_tensors(item, tensors, f"{name}/{key}".lstrip("/"))
            for key, item in plain.items()
        }
    return plain
