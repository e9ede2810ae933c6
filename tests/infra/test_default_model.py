"""The default model is judged on photos that it never saw, and its bundle names no folder of the machine that made it."""

from __future__ import annotations

import collections
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import default_model
from naturaltone.infra.imagemagick import imagemagick
from naturaltone.pipeline.photo.decode import decode
from naturaltone.training.checkpoint import BUNDLE_JSON, load_bundle


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    photos = tmp_path_factory.mktemp("default")
    for role in ("inputs", "natural"):
        shutil.copytree(photo_folder, photos / role, ignore=shutil.ignore_patterns("below"))
    default_model.split(photos, photos / "work")
    return photos / "work"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_no_photo_is_both_held_out_and_trained_on(work: Path) -> None:
    held_out, trained = work / "held-out", work / "train"
    assert len(names(held_out / "inputs")) == 6 and len(names(held_out / "natural")) == 3  # of 22 each
    assert names(held_out / "dulled") == names(held_out / "natural")
    assert not names(held_out / "natural") & names(trained / "natural")
    inputs = {name.rpartition("-")[0] for name in names(trained / "inputs") if "-" in name}
    originals = {Path(name).stem for name in names(held_out / "inputs") & names(held_out / "natural")}
    assert not originals & inputs, "no copy of a photo that is held out in both roles"


def test_the_split_is_the_same_on_every_machine(work: Path, photo_folder: Path, tmp_path: Path) -> None:
    for role in ("inputs", "natural"):
        shutil.copytree(photo_folder, tmp_path / role, ignore=shutil.ignore_patterns("below"))
    default_model.split(tmp_path, tmp_path / "work")
    for path in work.rglob("*.jpg"):
        assert path.read_bytes() == (tmp_path / "work" / path.relative_to(work)).read_bytes()


def test_portraits_teach_skin_in_low_key_and_underexposed_and_some_of_each_tone_are_held_out(
    tmp_path: Path, photo_folder: Path, bundle_folder: Path
) -> None:
    for role in ("inputs", "natural", "portraits"):
        shutil.copytree(photo_folder, tmp_path / role, ignore=shutil.ignore_patterns("below"))
    tones = itertools.cycle(("light", "brown"))
    rows = "".join(f"{path.name}\t30,20,40,50\t{next(tones)}\n" for path in sorted((tmp_path / "portraits").iterdir()))
    (tmp_path / "portraits" / "SOURCES.tsv").write_text(f"file\tface_box\tclass\n{rows}")
    work = tmp_path / "work"
    default_model.split(tmp_path, work)
    held_out = names(work / "held-out" / "portraits")
    assert len(held_out) == 6 and names(work / "held-out" / "underexposed") == held_out
    copies = {name for name in names(work / "train" / "natural") if name.startswith("portrait-")}
    inputs = {name for name in names(work / "train" / "inputs") if name.startswith("portrait-")}
    assert inputs < copies and len(inputs) == 16 * default_model.UNDEREXPOSED
    count = collections.Counter(name.rpartition("-")[0] for name in copies)
    brown = {f"portrait-{Path(line.split()[0]).stem}" for line in rows.splitlines() if "brown" in line}
    assert len(brown - count.keys()) == 3, "held out"
    assert {count[name] for name in count.keys() & brown} == {1 + default_model.LOW_KEYS["brown"]}
    assert {count[name] for name in count.keys() - brown} == {1 + default_model.OTHER_LOW_KEYS}
    assert not {f"portrait-{Path(name).stem}" for name in held_out} & count.keys()

    def brightness(path: Path) -> float:
        return float(decode(path.read_bytes()).pixels.mean())

    for name in copies:
        first = f"{name.rpartition('-')[0]}-0.jpg"
        if name in inputs:
            assert brightness(work / "train/inputs" / name) < 0.9 * brightness(work / "train/natural" / first)
        assert brightness(work / "train/natural" / name) <= brightness(work / "train/natural" / first)

    evaluations = default_model.measure(bundle_folder, tmp_path, work, against=str(bundle_folder))
    assert {kind: each.photos for kind, each in evaluations.items()} == {
        **{"inputs": 6, "dulled": 3},
        **{"portraits": 6, "low-key": 6, "underexposed": 6},
    }
    for kind in ("dulled", "underexposed"):
        table = evaluations[kind].table
        assert table["result"]["psnr"] == table["against"]["psnr"], "both are compared with the photo before"
    assert "psnr" not in evaluations["inputs"].table["result"]


def test_dulled_copies_are_of_poorer_tone(work: Path) -> None:
    for path in (work / "held-out" / "dulled").iterdir():
        dulled = decode(path.read_bytes()).pixels
        assert (
            np.abs(dulled.astype(int) - decode((work / "held-out/natural" / path.name).read_bytes()).pixels).mean() > 3
        )


def test_the_released_bundle_has_the_weights_and_no_folder_of_its_maker(bundle_folder: Path, tmp_path: Path) -> None:
    default_model.release(bundle_folder, {}, tmp_path)
    assert load_bundle(tmp_path).digest == load_bundle(bundle_folder).digest
    lineage = json.loads((tmp_path / BUNDLE_JSON).read_text())["lineage"]
    assert lineage["algorithm"] == "test" and not {"store", "run"} & set(lineage)


def test_imagemagick_stretches_a_flat_photo(photo: np.ndarray) -> None:
    if not imagemagick():
        pytest.skip("ImageMagick is not installed")
    flat = (photo // 4 + 96).astype(np.uint8)
    stretched = default_model.imagemagick_auto(flat)
    assert stretched.shape == flat.shape and stretched.std() > 2 * flat.std()
