"""The variables of the service have different names, which their users can tell are ours."""

from __future__ import annotations

from naturaltone.serving.service import settings


def test_our_variables_are_different_and_begin_with_our_name() -> None:
    ours = {
        name: value
        for name, value in vars(settings).items()
        if name.isupper() and name not in ("PROXY_CALLBACK", "GUARD")
    }
    assert len(set(ours.values())) == len(ours)
    assert all(value.startswith("NATURALTONE_") for value in ours.values())


def test_ray_knows_the_variable_of_the_callback() -> None:
    from ray.serve._private import constants

    assert settings.PROXY_CALLBACK in vars(constants), "a new Ray may call it otherwise: the guard would not run"
