"""The HTTP API and the page, as a FastAPI app over a `Service`. It runs without Ray too, behind the same guard."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import starlette.exceptions
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from naturaltone import __version__
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.enhancer import MAX_STRENGTH
from naturaltone.serving.service import settings
from naturaltone.serving.service.docs import docs_page
from naturaltone.serving.service.guard import BODY, CLIENT, NEEDS_KEY, REASON_HEADER
from naturaltone.serving.service.limits import MAX_BYTES, MAX_MEGAPIXELS, photo_in
from naturaltone.serving.service.models import MODEL
from naturaltone.serving.service.service import Service
from naturaltone.serving.service.slots import Abandoned, Stages

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = Path(str(files("naturaltone.serving.service"))) / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The router raises these before it reads a photo.
_HTTP_REASONS = {reason.http_status: reason for reason in (Reason.NOT_FOUND, Reason.METHOD_NOT_ALLOWED)}
# Offset, the bytes at that offset, and the media type of such a file.
_MEDIA_TYPES = (
    (0, b"\xff\xd8", "image/jpeg"),
    (0, b"\x89PNG", "image/png"),
    (0, b"RIFF", "image/webp"),
    (0, b"II", "image/tiff"),
    (0, b"MM", "image/tiff"),
    (4, b"ftypavi", "image/avif"),
    (4, b"ftyp", "image/heic"),
)
_PHOTOS = sorted({media_type for _, _, media_type in _MEDIA_TYPES})
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_RETRY_SECONDS = "1"
NO_GUARD = (
    f"the proxies of Ray Serve run without naturaltone's guard; set {settings.PROXY_CALLBACK}={settings.GUARD} on every "
    "machine before Ray starts"
)

log = logging.getLogger(__name__)


class Error(BaseModel):
    """Why a request failed. error: a stable word (`naturaltone.pipeline.reasons`). detail: a sentence with the remedy."""

    error: Reason
    detail: str


class Model(BaseModel):
    """The models that serve.

    following, description (what the bundle says about its training) and the detail of `refused` are left out without a key.
    """

    version: str
    following: str | None
    parameters: int
    working_resolution: int
    challenger: dict[str, str] | None
    refused: dict[str, str] | None
    needs_key: bool
    max_bytes: int
    max_megapixels: float
    description: dict[str, Any] | None


class Options(BaseModel, extra="forbid"):
    """The parameters of the address. A misspelt one is refused: it must not silently give the full strength."""

    strength: float = Field(
        1.0, ge=0, le=MAX_STRENGTH, allow_inf_nan=False, description="0: unchanged; 1: the model's result"
    )
    format: Literal["jpeg", "png", "webp", "avif"] | None = Field(
        None, description="another format for the answer, with 8 bits"
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="of JPEG, WebP, AVIF and HEIC; a JPEG and a HEIC keep their own if left out"
    )
    model: Literal["model", "challenger"] = Field("model", description="which model, if the service compares two")


class Status(BaseModel):
    status: str


_MEANINGS = {
    400: "Not a photo, or a damaged one.",
    401: "No valid API key.",
    404: "Nothing at this address.",
    405: "Not for this HTTP method.",
    408: "The photo arrived too slowly, or took too long.",
    409: "The photo is enhanced already.",
    413: "Too many bytes or pixels.",
    415: "A format or a kind of photo that is not enhanced.",
    422: "A parameter is out of range, or unknown.",
    429: "This key sends too many requests; `Retry-After` says how many seconds to wait.",
    500: "A bug in naturaltone.",
    503: "Full, or no model yet; `Retry-After` says how many seconds to wait.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": _MEANINGS[status]} for status in statuses}


def create_api(service: Service) -> FastAPI:
    """The app. It expects the guard in front of it: without the guard's mark, it enhances nothing."""
    api = FastAPI(
        title="naturaltone",
        version=__version__,
        description="Enhances the tone of photos.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect names the host, and would be wrong below a prefix
        servers=[{"url": ".", "description": "this service, also below a prefix"}],
    )
    _add_error_handlers(api)
    _add_enhance(api, service)
    _add_model(api, service)
    _add_page(api)
    _declare_keys(api)
    return api


def _declare_keys(api: FastAPI) -> None:
    """Name in the OpenAPI description how a key is sent: the guard asks for it, so FastAPI knows nothing of it."""
    described = api.openapi()
    schemes = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, if the service has any."}}
    described.setdefault("components", {})["securitySchemes"] = schemes


def _add_enhance(api: FastAPI, service: Service) -> None:
    body = {
        "required": True,
        "content": {
            **{media_type: _BINARY for media_type in (*_PHOTOS, "application/octet-stream")},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "additionalProperties": False,
                    "properties": {"photo": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
    answer = {
        "description": "The enhanced photo, in its own format and with its metadata.",
        "content": {media_type: _BINARY for media_type in _PHOTOS},
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in (
                ("X-Model-Version", "The version of the model that enhanced the photo."),
                ("X-Request-Id", "The id of this request in the logs."),
                ("Server-Timing", "Milliseconds of each stage."),
            )
        },
    }

    @api.post(
        "/v1/enhance",
        response_class=Response,
        summary="Enhance a photo",
        responses={200: answer, **_errors(400, 401, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503)},
        openapi_extra={"requestBody": body, "security": [{"key": []}, {}]},
    )
    async def enhance(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Enhance the photo in the body, or in the form field "photo". The answer keeps its format and metadata."""
        if BODY not in request.scope:
            raise ImageError(Reason.NO_MODEL, NO_GUARD)
        if request.scope.get(CLIENT) is None:
            raise ImageError(Reason.UNAUTHORIZED, Reason.UNAUTHORIZED.meaning)
        data = await photo_in(request.scope[BODY], request.headers)
        stages = Stages()
        enhanced = await service.enhance(
            data,
            stages,
            which=options.model,
            strength=options.strength,
            quality=options.quality,
            format=options.format.upper() if options.format else None,
        )
        return Response(
            enhanced.data,
            media_type=_media_type(enhanced.data),
            headers={"X-Model-Version": enhanced.version, "Server-Timing": stages.server_timing()},
        )


def _add_model(api: FastAPI, service: Service) -> None:
    @api.get("/v1/model", response_model=Model, summary="The models that serve", responses=_errors(405, 500, 503))
    async def model(request: Request) -> dict[str, Any]:
        described = service.models.describe()
        if request.scope.get(CLIENT) is None:
            # The lineage, the URI and the path of a refused bundle may name private folders and stores.
            described |= {"description": None, "following": None}
            if described["refused"]:
                described["refused"] = {"version": described["refused"]["version"]}
        return {
            **described,
            "needs_key": bool(request.scope.get(NEEDS_KEY)),
            "max_bytes": MAX_BYTES,
            "max_megapixels": MAX_MEGAPIXELS,
        }

    @api.get("/healthz", response_model=Status, summary="Whether the process lives", responses=_errors(405, 500, 503))
    async def healthy() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz", response_model=Status, summary="Whether a model serves", responses=_errors(405, 500, 503))
    async def ready() -> dict[str, str]:
        service.models.choose(MODEL)
        return {"status": "ready"}


def _add_page(api: FastAPI) -> None:
    known = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}

    def answer(name: str) -> Response:
        return Response(known[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @api.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in known:
            raise starlette.exceptions.HTTPException(404, Reason.NOT_FOUND.meaning)
        return answer(name)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(api.openapi()), headers=headers)


def _media_type(photo: bytes) -> str:
    """The media type of an enhanced photo, by its first bytes."""
    found = (media_type for offset, signature, media_type in _MEDIA_TYPES if photo.startswith(signature, offset))
    return next(found, "application/octet-stream")


def _answer(
    reason: Reason, detail: str, status: int | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    status = status or reason.http_status
    retry = {"Retry-After": _RETRY_SECONDS} if status == 503 else {}
    return JSONResponse(
        {"error": reason, "detail": detail}, status, {REASON_HEADER: reason, **retry, **(headers or {})}
    )


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(ImageError)
    async def image_error(request: Request, error: ImageError) -> JSONResponse:
        return _answer(error.reason, error.detail)

    @api.exception_handler(Abandoned)
    async def abandoned(request: Request, error: Abandoned) -> JSONResponse:
        return _answer(Reason.TIMED_OUT, "the client has gone")  # nobody reads this

    @api.exception_handler(starlette.exceptions.HTTPException)  # of FastAPI and its router
    async def http_error(request: Request, error: starlette.exceptions.HTTPException) -> JSONResponse:
        reason = _HTTP_REASONS.get(error.status_code, Reason.INTERNAL)
        return _answer(reason, reason.meaning, error.status_code, dict(error.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def parameter_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _answer(Reason.BAD_PARAMETER, f"{first['loc'][-1]}={first.get('input')!r}: {first['msg']}")

    @api.exception_handler(Exception)
    async def any_error(request: Request, error: Exception) -> JSONResponse:
        log.error("a bug in naturaltone", exc_info=error, extra={"request_id": request.headers.get("x-request-id")})
        return _answer(Reason.INTERNAL, Reason.INTERNAL.meaning)
