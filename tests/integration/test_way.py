"""The way of a photo with the real parts: S3, Ray Data, two DDP workers, MLflow, Ray Serve."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturaltone.infra import local
from naturaltone.pipeline import storage, stream, tone
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.photo.stored import decode_rgb, encode_jpeg
from naturaltone.serving import registry
from naturaltone.serving.archive import job as archive
from naturaltone.serving.archive import plan as archive_plan
from naturaltone.serving.archive.report import FOLDER, JSON_LINES, PARQUET
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation.photos import open_photos
from naturaltone.serving.service import app
from naturaltone.training import checkpoint, tracking
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import TrainResult, train

pytestmark = pytest.mark.usefixtures("ray_cluster")

LONG_SIDE = 128


@pytest.fixture(scope="module")
def store(object_store: local.ObjectStore, photo_folder: Path) -> str:
    """A store on S3 with both roles."""
    uri = storage.join(object_store.uri, "store")
    for role in shards.ROLES:
        report = ingest.ingest(str(photo_folder), role=role, store=uri, long_side=LONG_SIDE)
        assert (report.found, report.added, report.unchanged, report.rejects.num_rows) == (24, 24, 0, 0)
    return uri


def photos_of(store: str, role: str) -> list[dict]:
    opened = shards.open_store(store)
    return [row for split in ("train", "test") for row in opened.photos(role, split)]


def test_shards_hold_every_photo_small_and_inputs_their_intermediates(store: str) -> None:
    inputs, natural = photos_of(store, "input"), photos_of(store, "natural")
    assert len({row["photo_id"] for row in inputs}) == len(inputs) == len(natural) == 24
    for row in inputs:
        assert max(row["width"], row["height"]) == LONG_SIDE and row["split"] == shards.split_of(row["photo_id"])
    assert all(row["intermediate"] is None for row in natural)


def test_a_cached_intermediate_is_the_fixed_algorithms_of_the_whole_photo(store: str) -> None:
    row = next(shards.open_store(store).photos("input", "train"))
    photo = decode(storage.read_bytes(row["source"])).pixels
    stored = encode_jpeg(shrink(photo, LONG_SIDE))
    assert row["image"] == stored
    assert row["intermediate"] == encode_jpeg(tone.intermediate(decode_rgb(stored)))


def test_row_groups_are_small_and_the_shard_names_its_algorithm(store: str) -> None:
    opened = shards.open_store(store)
    assert opened.algorithm == tone.algorithm_id()
    for file in set(opened.row_groups["file"].to_pylist()):
        metadata = pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(store, file))))
        assert metadata.metadata[b"algorithm"].decode() == opened.algorithm
        assert all(metadata.row_group(i).num_rows <= shards.ROW_GROUP_PHOTOS for i in range(metadata.num_row_groups))


def test_known_photos_are_not_added_twice(store: str, photo_folder: Path) -> None:
    report = ingest.ingest(str(photo_folder), role="input", store=store, long_side=LONG_SIDE)
    assert (report.added, report.unchanged, report.duplicates) == (0, 24, 0)
    assert len(photos_of(store, "input")) == 24


def test_a_store_made_otherwise_is_refused(store: str, photo_folder: Path) -> None:
    with pytest.raises(storage.StorageError, match="made with long side 128, this ingest would use 64"):
        ingest.ingest(str(photo_folder), role="input", store=store, long_side=64)


def test_bad_photos_are_listed_with_their_reason_and_the_rest_goes_through(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = (photo_folder / "01.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(good)
    (folder / "same again.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("no photo")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    store = str(tmp_path / "store")
    for _ in range(2):
        report = ingest.ingest(str(folder), role="natural", store=store)
        reasons = {row["source"].rpartition("/")[2]: row["reason"] for row in report.rejects.to_pylist()}
        assert reasons == {"cut.jpg": "truncated", "text.jpg": "not_an_image", "dot.png": "too_small"}
    assert [row["source"].rpartition("/")[2] for row in photos_of(store, "natural")] == ["good.jpg"]
    kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
    assert sorted(kept["reason"].to_pylist()) == sorted(reasons.values())


def test_global_batches_are_the_same_for_one_two_and_three_workers_in_every_run_and_from_any_step(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=6, crop=32, seed=5)
    last = 30

    def read(rank: int, world_size: int, first: int) -> list[stream.Batch]:
        return list(stream.batches(plan, rank=rank, world_size=world_size, first_step=first, last_step=last))

    alone, again, late = read(0, 1, 0), read(0, 1, 0), read(0, 1, 13)
    shared = {size: [read(rank, size, 0) for rank in range(size)] for size in (2, 3)}
    assert len(alone) == len(again) == last and len(late) == last - 13
    for step, batch in enumerate(alone):
        assert batch["position"].tolist() == list(range(6 * step, 6 * step + 6))
        direct = stream.read_positions(plan, batch["position"])
        for name in stream.COLUMNS:
            assert np.array_equal(batch[name], direct[name]) and np.array_equal(batch[name], again[step][name])
            for ranks in shared.values():
                assert np.array_equal(batch[name], np.concatenate([rank[step][name] for rank in ranks]))
            if step >= 13:
                assert np.array_equal(batch[name], late[step - 13][name])


def test_a_stream_that_would_wait_for_cpus_for_ever_is_refused(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=2 * local.local_cpus(), crop=32, seed=5)
    workers = local.local_cpus()
    needed = rf"{workers} workers leave 0 CPUs for the stream, .* {2 * workers} CPUs or fewer --workers"
    with pytest.raises(ValueError, match=needed):
        next(stream.batches(plan, rank=0, world_size=workers, first_step=0, last_step=1))


def test_fewer_reads_than_cpus_are_a_stream_too(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=1, crop=32, seed=5)
    batches = list(stream.batches(plan, rank=0, world_size=1, first_step=0, last_step=1, cpus=3))
    assert [batch["position"].tolist() for batch in batches] == [[0]]


def test_a_stream_that_is_closed_early_leaves_the_cpus_to_the_next(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=4, crop=32, seed=5)
    for _ in range(4):
        batches = stream.batches(plan, rank=0, world_size=1, first_step=0, last_step=10**6)
        assert len(next(batches)["input"]) == 4
        batches.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(store: str, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of two workers, stopped after half of its steps and resumed."""
    folder = tmp_path_factory.mktemp("trained")
    half = dataclasses.replace(config, steps=config.steps // 2)
    first = train(store, half, run_name="resumed", workers=2, use_gpu=False, bundle=folder / "half")
    assert first.report.steps == half.steps
    return train(store, config, run_name="resumed", workers=2, use_gpu=False, bundle=folder / "whole")


def test_the_same_run_name_goes_on_where_it_stopped(trained: TrainResult, config: TrainConfig, store: str) -> None:
    assert trained.report.steps == config.steps - config.steps // 2
    assert trained.losses_last["loss_color"] > 0
    checkpoints = list(storage.list_files(storage.join(store, "runs/resumed"), suffixes=(".safetensors",)))
    assert checkpoints, "checkpoints lie beside the store on S3"


def test_a_run_is_not_resumed_with_another_configuration(trained: TrainResult, config: TrainConfig, store: str) -> None:
    other = dataclasses.replace(config, lambda_natural=0.7)
    with pytest.raises(ValueError, match=r"'resumed' was started with lambda_natural 0\.02, now 0\.7; .*another --run"):
        train(store, other, run_name="resumed", workers=2, use_gpu=False, bundle=trained.bundle)


def test_every_steps_losses_and_activations_are_tracked(trained: TrainResult, config: TrainConfig) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    losses = [f"loss_{name}" for name in ("color", "natural", "artifact", "generator", "discriminator", "inverse")]
    for name in [*losses, "activation_natural", "activation_enhanced"]:
        steps = [metric.step for metric in client.get_metric_history(trained.run_id, name)]
        assert sorted(steps) == list(range(config.steps)), name
    assert all(metric.value > 0 for metric in client.get_metric_history(trained.run_id, "images_per_second"))
    run = client.get_run(trained.run_id)
    assert run.data.metrics["images_per_second"] > 0
    assert run.data.params["lambda_natural"] == str(config.lambda_natural)
    assert any("input-intermediate-enhanced" in file.path for file in client.list_artifacts(trained.run_id, "images"))


@pytest.fixture(scope="module")
def champion(trained: TrainResult) -> str:
    registry.register(trained.bundle, run_id=trained.run_id)
    return "models:/naturaltone@champion"


def test_a_registered_model_loads_as_pyfunc_and_as_enhancer_alike(champion: str, photo_folder: Path) -> None:
    import mlflow

    photo = decode((photo_folder / "02.jpg").read_bytes()).pixels
    enhanced = Enhancer.load(champion).enhance(photo)
    loaded = mlflow.pyfunc.load_model(champion)
    assert np.array_equal(loaded.predict(photo[None])[0], enhanced)
    assert np.array_equal(loaded.predict(photo[None], params={"strength": 0.0})[0], photo)


def test_nothing_in_the_registered_model_is_pickled(champion: str) -> None:
    folder, _ = tracking.download_model(champion)
    files = {path.name for path in folder.parent.parent.rglob("*") if path.is_file()}
    assert {checkpoint.BUNDLE_JSON, checkpoint.BUNDLE_TENSORS} <= files
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in files)


def test_a_second_model_becomes_the_challenger_not_the_champion(champion: str, trained: TrainResult) -> None:
    second = registry.register(trained.bundle, run_id=trained.run_id)
    assert tracking.aliases() == {"champion": "1", "challenger": second.version}


def test_evaluation_takes_a_stores_held_out_photos(store: str, bundle_folder: Path) -> None:
    photos, held_out = open_photos(store, [])
    result = evaluate.evaluate(Enhancer.load(str(bundle_folder)), photos, held_out=held_out)
    opened = shards.open_store(store)
    assert result.photos == opened.count("input", "test") > 0 and held_out


@pytest.fixture
def archive_folder(tmp_path: Path, photo: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """An archive of three formats with metadata, a bad photo and a file of another kind."""
    folder = tmp_path / "my photos"
    (folder / "2026" / "summer ☀").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2019:07:21 14:03:12"
    (folder / "2026" / "turned.jpg").write_bytes(to_file(photo, exif=exif, quality=95))
    (folder / "2026" / "summer ☀" / "a b.png").write_bytes(to_file(photo, "PNG"))
    (folder / "wide.webp").write_bytes(to_file(photo, "WEBP", icc_profile=b""))
    (folder / "cut.jpg").write_bytes(to_file(photo)[:600])
    (folder / "notes.txt").write_text("keep")
    return folder


def test_an_archive_is_enhanced_beside_untouched_originals(
    archive_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in archive_folder.rglob("*") if path.is_file()}
    target, enhancer = tmp_path / "enhanced", Enhancer.load(str(bundle_folder))
    report = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (report.counts, report.unchanged) == ({"enhanced": 3, "failed": 1, "skipped": 1}, 0)
    assert report.reasons == {"truncated": 1, "not_a_photo": 1}
    assert [(entry.source, entry.reason) for entry in report.failures] == [("cut.jpg", "truncated")]
    assert {path: path.read_bytes() for path in archive_folder.rglob("*") if path.is_file()} == before

    turned = Image.open(target / "2026" / "turned.jpg")
    original = decode((archive_folder / "2026" / "turned.jpg").read_bytes())
    assert turned.size == original.pixels.shape[:2], "as the camera stored them, with the tag that turns them"
    assert turned.getexif()[0x0112] == 6 and turned.getexif().get_ifd(0x8769)[0x9003] == "2019:07:21 14:03:12"
    for name in ("2026/summer ☀/a b.png", "wide.webp"):
        after = decode((target / name).read_bytes()).pixels.astype(int)
        assert np.abs(after - decode(before[archive_folder / name]).pixels).mean() > 2


def test_an_archive_goes_on_with_what_is_missing_new_or_asked_otherwise(
    archive_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    target, enhancer = tmp_path / "enhanced", Enhancer.load(str(bundle_folder))
    archive.enhance_archive(str(archive_folder), str(target), enhancer)
    (target / "wide.webp").unlink()
    shutil.copy(archive_folder / "2026" / "turned.jpg", archive_folder / "new.jpg")
    again = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (again.counts, again.unchanged) == ({"enhanced": 2, "failed": 1}, 3)
    first = (target / "new.jpg").read_bytes()
    softer = archive.enhance_archive(str(archive_folder), str(target), enhancer, archive_plan.Options(strength=0.5))
    assert (softer.counts["enhanced"], softer.unchanged) == (4, 1) and (target / "new.jpg").read_bytes() != first
    back = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (back.counts["enhanced"], back.unchanged) == (4, 1) and (target / "new.jpg").read_bytes() == first
    lines = [json.loads(line) for line in (target / FOLDER / JSON_LINES).read_text().splitlines()]
    assert [json.loads(line["settings"])["strength"] for line in lines if line["source"] == "new.jpg"] == [1.0]
    assert pq.read_table(target / FOLDER / PARQUET).to_pylist() == lines


def test_an_archive_goes_from_and_to_object_storage(
    object_store: local.ObjectStore, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    source, target = (storage.join(object_store.uri, name) for name in ("originals", "results"))
    storage.write_bytes(storage.join(source, "a/b.jpg"), to_file(photo))
    report = archive.enhance_archive(source, target, Enhancer.load(str(bundle_folder)))
    assert report.counts == {"enhanced": 1}
    assert decode(storage.read_bytes(storage.join(target, "a/b.jpg"))).pixels.shape == photo.shape


@pytest.fixture(scope="module")
def address(bundle_folder: Path) -> Iterator[str]:
    with app.running(model=str(bundle_folder), host="127.0.0.1", port=local.free_port()) as address:
        yield address


def post(
    address: str, data: bytes, query: str = "", content_type: str = "image/jpeg"
) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(f"{address}/v1/enhance{query}", data=data, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_a_posted_photo_comes_back_as_the_enhancer_makes_it(
    address: str, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(photo)
    status, body, headers = post(address, data)
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert headers["x-model-version"].startswith(bundle_folder.name) and headers["server-timing"].startswith(
        "total;dur="
    )
    expected = decode(Enhancer.load(str(bundle_folder)).enhance_file(data).data).pixels
    assert np.abs(decode(body).pixels.astype(int) - expected).mean() < 0.5
    assert decode(post(address, data, "?strength=0")[1]).pixels.shape == photo.shape


def test_a_form_with_a_photo_is_taken_too(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.png"\r\n\r\n'
    form = head + to_file(photo, "PNG") + b"\r\n--x--\r\n"
    status, body, headers = post(address, form, content_type="multipart/form-data; boundary=x")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert decode(body).pixels.shape == photo.shape


@pytest.mark.parametrize(
    ("data", "query", "status", "error"),
    [
        (b"no photo", "", 400, "not_an_image"),
        (b"", "", 400, "not_an_image"),
        (b"no photo", "?strength=9", 422, "bad_parameter"),
        (b"no photo", "?strength=much", 422, "bad_parameter"),
    ],
)
def test_http_errors_are_json_with_a_stable_code(
    address: str, data: bytes, query: str, status: int, error: str
) -> None:
    answered, body, _ = post(address, data, query)
    assert answered == status
    assert json.loads(body)["error"] == error and json.loads(body)["detail"]


def test_an_unknown_address_is_a_json_error_too(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/v2/enhance")
    assert caught.value.code == 404 and json.load(caught.value)["error"]


def test_an_unsupported_photo_is_415_over_http(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    status, body, _ = post(address, to_file(photo, "BMP"))
    assert (status, json.loads(body)["error"]) == (415, "unsupported_format")


def test_the_service_says_what_it_serves_and_that_it_is_ready(address: str, bundle_folder: Path) -> None:
    with urllib.request.urlopen(f"{address}/v1/model") as response:
        model = json.load(response)
    assert model["version"].startswith(bundle_folder.name) and model["working_resolution"] == 96
    for path in ("healthz", "readyz", "docs"):
        with urllib.request.urlopen(f"{address}/{path}") as response:
            assert response.status == 200


def test_manifest_rows_match_their_files(store: str) -> None:
    for row in shards.open_store(store).row_groups.to_pylist():
        group = shards.read_row_group(store, row["file"], row["row_group"], ["photo_id", "split"])
        assert row["num_photos"] == group.num_rows and set(group["split"].to_pylist()) == {row["split"]}
        assert row["file"].startswith(f"{row['role']}/{row['split']}-")
