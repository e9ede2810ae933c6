"""The variables of the service have different names, which their users can tell are ours."""

from __future__ import annotations

from pathlib import Path

from naturaltone.serving.service import settings


def test_our_variables_are_different_and_begin_with_our_name() -> None:
    ours = {
        name: value
        for name, value in vars(settings).items()
        if name.isupper() and name not in ("PROXY_CALLBACK", "GUARD", "RAY_SERVE")
    }
    assert len(set(ours.values())) == len(ours)
    assert all(value.startswith("NATURALTONE_") for value in ours.values())


def test_ray_serve_still_reads_the_variables_that_we_set() -> None:
    from ray.serve._private import constants

    source = Path(constants.__file__).read_text()
    for name in settings.RAY_SERVE:
        assert f'"{name}"' in source or name in vars(constants), f"a new Ray may call {name} otherwise"
