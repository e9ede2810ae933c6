"""The script that MLflow runs to load a registered model (models-from-code): it wraps the bundle without any pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.checkpoint import load_bundle
from naturaltone.training.model_registry import BUNDLE_ARTIFACT


class RegisteredEnhancer(PythonModel):
    """Enhances a batch of N×H×W×3 uint8 sRGB photos; `params={"strength": 0.5}` sets the strength, 0 to 1.5."""

    def load_context(self, context: PythonModelContext) -> None:
        self._enhancer = Enhancer(load_bundle(Path(context.artifacts[BUNDLE_ARTIFACT])), version="registered")

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        strength = float((params or {}).get("strength", 1.0))
        return np.stack([self._enhancer.enhance(photo, strength=strength) for photo in model_input])


mlflow.models.set_model(RegisteredEnhancer())
