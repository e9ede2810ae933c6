"""A new version replaces the old one without a pause, and a bad one never serves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import kept, metrics
from naturaltone.serving.service.follower import Follower
from naturaltone.training import checkpoint, model_registry
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS
from tests.serving.service.conftest import LONGEST, replace, save_model, wait_until


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    """`follow(uri)`: a follower that looks every 20 ms; its first look has ended."""
    followers = []

    def start(uri: str, **options: Any) -> Follower:
        follower = Follower("model", look_seconds=0.02, **options)
        followers.append(follower)
        follower.follow(uri)
        follower.wait_for_model(LONGEST)
        return follower

    yield start
    for follower in followers:
        follower.close()
        follower._thread.join(LONGEST)
        assert not follower._thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "served", seed=1)


@pytest.fixture
def better(tmp_path: Path) -> Path:
    return save_model(tmp_path / "better", seed=2)


def digest(folder: Path) -> str:
    return checkpoint.load_bundle(folder).digest


def serves(follower: Follower, folder: Path) -> bool:
    return follower.current is not None and follower.current.version.endswith(digest(folder))


def looks(follower: Follower, count: int = 3) -> None:
    """Wait until the follower has looked a few times more."""
    seen = 0
    look = follower.look

    def counted(uri: str) -> None:
        nonlocal seen
        try:
            look(uri)
        finally:
            seen += 1

    follower.look = counted  # type: ignore[method-assign]
    wait_until(lambda: seen >= count)
    follower.look = look  # type: ignore[method-assign]


def refusals() -> float:
    return float(metrics.REFUSALS.labels("model")._value.get())


def test_a_replaced_folder_is_followed_and_no_call_fails_meanwhile(
    follow: Callable[..., Follower], folder: Path, better: Path, photo: Any, to_file: Callable[..., bytes]
) -> None:
    follower, data = follow(str(folder)), to_file(photo)
    old, swaps = follower.current, metrics.SWAPS.labels("model")._value.get()
    stop, versions, failures = threading.Event(), [], []

    def call() -> None:
        while not stop.is_set():
            try:
                versions.append(follower.current.enhance_file(data).version)  # type: ignore[union-attr]
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    replace(folder, better)
    wait_until(lambda: serves(follower, better))
    count = len(versions)
    wait_until(lambda: len(versions) > count + 4)
    stop.set()
    for thread in threads:
        thread.join(LONGEST)
    assert failures == [] and old is not None
    assert set(versions) == {old.version, follower.current.version}  # type: ignore[union-attr]
    assert old.enhance_file(data).version == old.version, "a request that has the old model ends with it"
    assert metrics.SWAPS.labels("model")._value.get() == swaps + 1
    assert metrics.MODEL.labels("model", old.version)._value.get() == 0
    assert metrics.MODEL.labels("model", follower.current.version)._value.get() == 1  # type: ignore[union-attr]


def flip(folder: Path) -> None:
    data = bytearray((folder / BUNDLE_TENSORS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / BUNDLE_TENSORS).write_bytes(data)


def age(folder: Path) -> None:
    document = json.loads((folder / BUNDLE_JSON).read_text())
    document["format_version"] = 999
    (folder / BUNDLE_JSON).write_text(json.dumps(document))


def cut(folder: Path) -> None:
    (folder / BUNDLE_JSON).write_text("{")


def poison(folder: Path, value: float = float("nan")) -> None:
    bundle = checkpoint.load_bundle(folder)
    generator = bundle.generator
    with torch.no_grad():
        generator.decoder[-1].bias.fill_(value)
    from naturaltone.training.config import smoke

    checkpoint.save_bundle(folder, generator, smoke(), working_resolution=96, lineage={})


@pytest.mark.parametrize(
    ("damage", "detail"), [(flip, "damaged"), (age, "format version 999"), (cut, "cannot be read"), (poison, "NaN")]
)
def test_a_bad_version_is_refused_once_and_the_old_one_serves_on(
    damage: Callable[[Path], None], detail: str, follow: Callable[..., Follower], folder: Path, better: Path
) -> None:
    follower, before = follow(str(folder)), refusals()
    old = follower.current
    damage(better)
    replace(folder, better)
    wait_until(lambda: follower.refused is not None and detail in follower.refused.detail)
    looks(follower)
    counted = refusals()
    looks(follower)
    assert refusals() == counted, "it is not tried again until it changes"
    assert before < counted <= before + 2, "one file may have been new for a moment before the other"
    assert follower.current is old and follower.refused.version.startswith("served")  # type: ignore[union-attr]
    good = save_model(better, seed=3)
    replace(folder, good)
    wait_until(lambda: serves(follower, good) and follower.refused is None)


def test_a_self_test_that_breaks_off_is_shown_and_tried_again(
    follow: Callable[..., Follower], folder: Path, better: Path
) -> None:
    has_memory = threading.Event()

    class Starved(Enhancer):
        def enhance_file(self, *arguments: Any, **options: Any) -> Any:
            if not has_memory.is_set() and self.version.endswith(digest(better)):
                raise RuntimeError("can't allocate memory")
            return super().enhance_file(*arguments, **options)

    follower = follow(str(folder), build=lambda bundle, version: Starved(bundle, version=version))
    new = digest(better)
    replace(folder, better)
    # A look between the copies of its two files sees a damaged model first.
    wait_until(lambda: follower.refused and "can't allocate" in follower.refused.detail)
    assert follower.refused and follower.refused.version.endswith(new)
    assert follower.current and not serves(follower, better)
    has_memory.set()
    wait_until(lambda: serves(follower, better) and follower.refused is None)


def test_a_refusal_is_forgotten_when_the_good_version_is_put_back(
    follow: Callable[..., Follower], registered: str, tmp_path: Path
) -> None:
    follower = follow(model_registry.CHAMPION_URI)
    assert follower.current is not None
    old = follower.current
    bad = save_model(tmp_path / "bad", seed=4)
    poison(bad)
    version = registry.register(bad, run_id=registered).version
    try:
        model_registry.set_alias(model_registry.CHAMPION, version)
        wait_until(lambda: follower.refused is not None)
        assert follower.refused.version == f"naturaltone/{version}-{digest(bad)}"  # type: ignore[union-attr]
    finally:
        model_registry.set_alias(model_registry.CHAMPION, "1")
    wait_until(lambda: follower.refused is None)
    assert follower.current is old


def test_a_moved_alias_is_followed(follow: Callable[..., Follower], registered: str, better: Path) -> None:
    follower = follow(model_registry.CHAMPION_URI)
    assert follower.current is not None and follower.current.version.startswith("naturaltone/1-")
    version = registry.register(better, run_id=registered).version
    try:
        model_registry.set_alias(model_registry.CHAMPION, version)
        wait_until(lambda: serves(follower, better))
        assert follower.current.version == f"naturaltone/{version}-{digest(better)}"
    finally:
        model_registry.set_alias(model_registry.CHAMPION, "1")
    wait_until(lambda: follower.current.version.startswith("naturaltone/1-"))  # type: ignore[union-attr]


def test_a_replaced_prefix_of_s3_is_followed(
    follow: Callable[..., Follower], object_store: local.ObjectStore, folder: Path, better: Path
) -> None:
    uri = f"{object_store.uri}/followed/model"
    for name in (BUNDLE_JSON, BUNDLE_TENSORS):
        storage.write_bytes(storage.join(uri, name), (folder / name).read_bytes())
    follower = follow(uri)
    assert serves(follower, folder)
    for name in (BUNDLE_JSON, BUNDLE_TENSORS):
        storage.write_bytes(storage.join(uri, name), (better / name).read_bytes())
    wait_until(lambda: serves(follower, better) and follower.refused is None)


def test_the_model_stays_while_its_folder_is_away(
    follow: Callable[..., Follower], folder: Path, better: Path, tmp_path: Path
) -> None:
    follower = follow(str(folder))
    old, missed = follower.current, metrics.MISSED_LOOKS.labels("model")._value.get()
    folder.rename(tmp_path / "away")
    wait_until(lambda: metrics.MISSED_LOOKS.labels("model")._value.get() >= missed + 2)
    assert follower.current is old and follower.refused is None
    better.rename(folder)
    wait_until(lambda: serves(follower, folder))


def test_a_start_while_the_registry_is_away_serves_the_version_of_before(
    follow: Callable[..., Follower], folder: Path, tmp_path: Path
) -> None:
    first = follow(str(folder)).current
    folder.rename(tmp_path / "away")
    second = follow(str(folder))
    assert second.current is not None and first is not None and second.current.version == first.version


def test_a_kept_model_that_fails_its_test_does_not_delay_the_good_one(
    follow: Callable[..., Follower], folder: Path, better: Path
) -> None:
    poison(better)
    kept.keep(str(folder), better, "served-bad")
    follower = follow(str(folder))
    assert serves(follower, folder)


def test_a_start_without_any_model_waits_for_one(follow: Callable[..., Follower], tmp_path: Path, better: Path) -> None:
    follower = follow(str(tmp_path / "none"))
    assert follower.current is None
    better.rename(tmp_path / "none")
    wait_until(lambda: serves(follower, tmp_path / "none"))


def test_following_nothing_removes_the_model_and_following_again_brings_it_back(
    follow: Callable[..., Follower], folder: Path
) -> None:
    follower = follow(str(folder))
    version = follower.current.version  # type: ignore[union-attr]
    follower.follow("")
    wait_until(lambda: follower.current is None)
    assert metrics.MODEL.labels("model", version)._value.get() == 0
    follower.follow(str(folder))
    wait_until(lambda: serves(follower, folder))


def test_following_another_model_returns_at_once_and_the_old_one_serves_until_the_new_one_is_tested(
    follow: Callable[..., Follower], folder: Path, better: Path
) -> None:
    gate = threading.Event()
    blocked = str(better)

    def build(bundle: checkpoint.Bundle, version: str) -> Enhancer:
        if version.startswith("better"):
            gate.wait(LONGEST)
        return Enhancer(bundle, version=version)

    follower = follow(str(folder), build=build)
    old = follower.current
    follower.follow(blocked)
    follower.wait_for_model(LONGEST)
    assert follower.current is old is not None
    gate.set()
    wait_until(lambda: serves(follower, better))


def test_a_model_serves_although_it_cannot_be_kept(
    follow: Callable[..., Follower], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NATURALTONE_CACHE", str(tmp_path / "file" / "cache"))
    assert serves(follow(str(folder)), folder)
