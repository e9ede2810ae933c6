"""What a replica holds: the models, and the slots in which it enhances photos. No Ray, no HTTP."""

from __future__ import annotations

from typing import Any

from naturaltone.serving.enhancer import EnhancedFile
from naturaltone.serving.service import metrics
from naturaltone.serving.service.limits import in_room
from naturaltone.serving.service.models import MODEL, Models
from naturaltone.serving.service.slots import Slots, Stages


class Service:
    """Enhances photos with the model, or with the challenger. slots: photos at the same time."""

    def __init__(self, models: Models, *, slots: int = 1) -> None:
        self.models = models
        self._slots = Slots(slots)

    async def enhance(self, data: bytes, stages: Stages, *, which: str = MODEL, **options: Any) -> EnhancedFile:
        """Enhance a photo in the next free slot. options: see `Enhancer.enhance_file`."""
        enhancer = self.models.choose(which)

        def begin() -> EnhancedFile:
            stages.end("wait")
            return enhancer.enhance_file(data, watch=stages.end, **options)

        enhanced = await self._slots.run(lambda: in_room(data, begin), stages)
        metrics.MEGAPIXELS.labels(enhanced.version).inc(enhanced.megapixels)
        return enhanced

    def close(self) -> None:
        self.models.close()
        self._slots.close()
