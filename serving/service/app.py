"""The HTTP service on Ray Serve: POST a photo, get it back enhanced. Importing this file starts nothing."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The decorator of Serve pickles the class `EnhanceService` by value. So everything that the class uses stands above it.
# This file has no `from __future__ import annotations`, since FastAPI could not look up annotations that are strings.
import starlette.exceptions
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from ray import serve

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer, check_strength
from naturaltone.serving.service.limits import enhance_in_room, read_photo

APP_NAME = "naturaltone"

# The router raises these before it reads a photo.
_HTTP_REASONS = {reason.http_status: reason for reason in (Reason.NOT_FOUND, Reason.METHOD_NOT_ALLOWED)}
# Offset, the bytes at that offset, and the media type of such a file.
_MEDIA_TYPES = (
    (0, b"\xff\xd8", "image/jpeg"),
    (0, b"\x89PNG", "image/png"),
    (0, b"RIFF", "image/webp"),
    (0, b"II", "image/tiff"),
    (0, b"MM", "image/tiff"),
    (4, b"ftyp", "image/avif"),
)

api = FastAPI(title="naturaltone", description="Enhances the tone of photos.")


class AppArgs(BaseModel):
    """Arguments of `build_app`; `model` is `pretrained`, a bundle folder, an s3:// or a models:/ URI."""

    model: str


def _media_type(photo: bytes) -> str:
    """The media type of an enhanced photo, by its first bytes."""
    found = (media_type for offset, signature, media_type in _MEDIA_TYPES if photo.startswith(signature, offset))
    return next(found, "application/octet-stream")


@api.exception_handler(ImageError)
async def _image_error(request: Request, error: ImageError) -> JSONResponse:
    return JSONResponse({"error": error.reason, "detail": error.detail}, error.reason.http_status)


@api.exception_handler(starlette.exceptions.HTTPException)  # of FastAPI, its router and its parsers
async def _http_error(request: Request, error: starlette.exceptions.HTTPException) -> JSONResponse:
    if isinstance(error.detail, dict):
        return JSONResponse(error.detail, error.status_code)
    reason = _HTTP_REASONS.get(error.status_code, Reason.INTERNAL)
    return JSONResponse({"error": reason, "detail": str(error.detail)}, error.status_code)


@api.exception_handler(RequestValidationError)
async def _parameter_error(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    detail = f"{first['loc'][-1]}={first.get('input')!r}: {first['msg']}"
    return JSONResponse({"error": Reason.BAD_PARAMETER, "detail": detail}, 422)


@serve.deployment(max_ongoing_requests=8)
@serve.ingress(api)
class EnhanceService:
    """Enhances one photo a request."""

    def __init__(self, model: str) -> None:
        self._enhancer = Enhancer.load(model)

    @api.post("/v1/enhance", response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def enhance(self, request: Request, strength: float = 1.0) -> Response:
        """Enhance the photo in the body or in the multipart field `photo`. The answer keeps its format and metadata."""
        started = time.perf_counter()
        try:
            check_strength(strength)
        except UserError as error:
            raise HTTPException(422, {"error": Reason.BAD_PARAMETER, "detail": str(error)}) from None
        data = await read_photo(request)
        enhanced = await run_in_threadpool(enhance_in_room, self._enhancer, data, strength=strength)
        return Response(
            enhanced.data,
            media_type=_media_type(enhanced.data),
            headers={
                "X-Model-Version": self._enhancer.version,
                "Server-Timing": f"total;dur={1000 * (time.perf_counter() - started):.1f}",
            },
        )

    @api.get("/", include_in_schema=False)
    def home(self) -> RedirectResponse:
        """Redirect browsers to the description of the API."""
        return RedirectResponse("/docs")

    @api.get("/v1/model")
    def model(self) -> dict[str, Any]:
        """The model's version and description."""
        bundle = self._enhancer.bundle
        return {"version": self._enhancer.version, "parameters": bundle.num_parameters, **bundle.description}

    @api.get("/healthz")
    @api.get("/readyz")
    def ready(self) -> dict[str, str]:
        """Whether the service is ready; it answers once the model is loaded."""
        return {"status": "ready"}


def build_app(args: AppArgs) -> serve.Application:
    """Build the Serve application; also for `serve run naturaltone.serving.service.app:build_app model=…`.

    The alias of a registered model is resolved here, once, so all replicas serve the same version whenever they start.
    """
    return EnhanceService.bind(registry.resolve(args.model))  # type: ignore[attr-defined]


@contextmanager
def running(*, model: str, host: str, port: int) -> Iterator[str]:
    """Serve `model` on `host:port` while the context lasts; yields the base URL once the service answers."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": host, "port": port})
    serve.run(build_app(AppArgs(model=model)), name=APP_NAME, route_prefix="/")
    try:
        yield f"http://{host}:{port}"
    finally:
        serve.delete(APP_NAME)  # not serve.shutdown, since the cluster may serve other applications
