"""The service keeps the promises of its OpenAPI description, for requests that a machine makes up from it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import openapi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from naturaltone.pipeline.photo.formats import HAS_HEIF
from tests.pipeline.photo.files import file, picture
from tests.pipeline.photo.heif_files import heic, scene
from tests.serving.service.conftest import KEY, Server

_PHOTOS = {f"image/{format.lower()}": file(picture(), format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")}
_PHOTOS["image/heic"] = heic(scene()) if HAS_HEIF else b"no photo"
for _media_type, _photo in _PHOTOS.items():
    openapi.media_type(_media_type, st.one_of(st.just(_photo), st.binary(max_size=200)))
openapi.media_type("application/octet-stream", st.sampled_from([*_PHOTOS.values(), b"no photo"]))


@pytest.mark.parametrize(
    ("method", "path", "examples"),
    [("POST", "/v1/enhance", 120), ("GET", "/v1/model", 10), ("GET", "/healthz", 5), ("GET", "/readyz", 5)],
)
def test_every_answer_is_one_that_the_description_names(method: str, path: str, examples: int, server: Server) -> None:
    operation = openapi.from_url(f"{server.address}/openapi.json")[path][method]
    statuses = set()

    @settings(
        max_examples=examples,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy())
        answer = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
        statuses.add(answer.status_code)
        # No schema can say which bytes are a photo.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    check()
    assert 200 in statuses, "no request was good, so the media types are not registered"
