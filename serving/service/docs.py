"""The description of the API for people, made from its OpenAPI description; it loads nothing from another host."""

from __future__ import annotations

from typing import Any

from naturaltone.serving.sheet.render import render


def docs_page(openapi: dict[str, Any]) -> str:
    """The page `/docs` as HTML."""
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("summary", ""),
            "description": operation.get("description", ""),
            "parameters": [
                {
                    "name": parameter["name"],
                    "meaning": parameter.get("description", ""),
                    "values": _values(parameter["schema"]),
                    "default": parameter["schema"].get("default"),
                }
                for parameter in operation.get("parameters", [])
            ],
            "body": list(operation.get("requestBody", {}).get("content", {})),
            "answers": [
                {"status": status, "meaning": answer["description"], "types": list(answer.get("content", {}))}
                for status, answer in sorted(operation["responses"].items())
            ],
        }
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return render("api.html", title=openapi["info"]["title"], version=openapi["info"]["version"], operations=operations)


def _values(schema: dict[str, Any]) -> str:
    """What a parameter may be, in words."""
    choices = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    chosen = choices[0]
    if "enum" in chosen:
        return ", ".join(chosen["enum"])
    if "minimum" in chosen:
        return f"{chosen['minimum']:g} to {chosen['maximum']:g}"
    return str(chosen.get("type", ""))
