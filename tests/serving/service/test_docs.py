"""The page of the API tells everything that the OpenAPI description tells, and loads nothing from another host."""

from __future__ import annotations

import re

from naturaltone.serving.service.api import create_api
from naturaltone.serving.service.docs import docs_page
from naturaltone.serving.service.service import Service


def test_the_page_names_every_operation_parameter_and_status(service: Service) -> None:
    openapi = create_api(service).openapi()
    page = docs_page(openapi)
    for path, methods in openapi["paths"].items():
        assert f"<code>{path}</code>" in page
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in page
            assert all(status in page for status in operation["responses"])
    assert "0 to 1.5" in page and "jpeg, png, webp, avif" in page and "1 to 100" in page
    assert "image/jpeg" in page and "multipart/form-data" in page


def test_the_page_needs_no_other_host_and_no_inline_code(service: Service) -> None:
    page = docs_page(create_api(service).openapi())
    assert "//" not in re.sub(r"<code>.*?</code>", "", page)
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", page)


def test_what_the_description_says_is_shown_as_text() -> None:
    openapi = {
        "info": {"title": "<b>", "version": "1"},
        "paths": {"/<i>": {"get": {"summary": "<script>", "responses": {"200": {"description": "<img>"}}}}},
    }
    page = docs_page(openapi)
    assert not any(tag in page for tag in ("<b>", "<i>", "<script>", "<img>"))
