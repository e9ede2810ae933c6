"""What belongs to a photo is known by its name, and the movie of a Live Photo by the photo beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.listing import File
from naturaltone.serving.archive.kinds import with_kinds
from naturaltone.serving.archive.task import Kind

# S3 lists keys in the order of their characters; `list_files` lists disks folder by folder.
ORDERS: dict[str, Callable[[str], object]] = {"s3": str, "disk": lambda name: name.split("/")}


def file_of(name: str) -> File:
    return File(uri=f"s3://source/{name}", relative=name, size=5, modified=0.0, version="1")


def kinds(*names: str, order: str = "s3") -> dict[str, Kind]:
    ordered = sorted(names, key=ORDERS[order])  # type: ignore[arg-type]
    found = [(file.relative, kind) for file, kind in with_kinds(map(file_of, ordered))]
    assert sorted(name for name, _ in found) == sorted(names), "each file comes once"
    return dict(found)


@pytest.mark.parametrize(
    "name",
    [
        *("IMG_1.jpg.xmp", "IMG_1.XMP", "IMG_1.AAE", "IMG_O1.aae", "IMG_1.jpg.pp3", "IMG_1.NEF.dop", "IMG_1.on1"),
        *("IMG_1.jpg.json", "IMG_1.JPG.JSON", "IMG_1.NEF.json", "IMG_1.jpg(1).json", "IMG_1(1).jpg.json"),
    ],
)
def test_a_file_with_metadata_or_edits_of_a_photo_is_its_sidecar(name: str) -> None:
    assert kinds(f"2019/{name}") == {f"2019/{name}": Kind.SIDECAR}


@pytest.mark.parametrize(
    "name",
    [
        # Names from reports of users.
        "IMG_20200920_131207.jpg.supplemental-metadata.json",
        "Screenshot_2017-07-05-10-05-26.png.supplementa.json",
        "D7157814-D2D5-4A62-AFCE-9CF465CB7D66.jpeg.supp.json",
        "Urlaub in Knaufspesch in der Schneifel (38).JP.json",
        "13039_327707840323_537645323_9470255_27214_n.j(1).json",
        "PXL_20230809_203449253.LONG_EXPOSURE-02.ORIGIN.json",
        "original_1d4caa6f-16c6-4c3d-901b-9387de10e528_.json",
        "Backyard_ceremony_wedding_photography_xxxxxxx_(494).json",
        "Screenshot_20220207_102421_com.snapchat.androi.json",
        "😀😃😄😁😆😅😂🤣🥲☺️😊😇🙂🙃😉😌😍🥰😘😗😙😚😋.json",
    ],
)
def test_the_json_files_of_google_takeout_are_known_however_it_cut_their_names(name: str) -> None:
    assert kinds(name) == {name: Kind.SIDECAR}


@given(
    stem=st.text("Ab1 _-.é😀", min_size=1, max_size=60).filter(lambda stem: not stem.startswith("._")),
    suffix=st.sampled_from([".jpg", ".JPEG", ".HEIC", ".png", ".NEF"]),
    number=st.sampled_from(["", "(1)", "(23)"]),
    words=st.sampled_from(["", ".supplemental-metadata"]),
)
def test_takeouts_json_of_any_photo_is_a_sidecar(stem: str, suffix: str, number: str, words: str) -> None:
    units = f"{stem}{suffix}{words}".encode("utf-16-le")[:92]
    name = f"{units.decode('utf-16-le', 'surrogatepass')}{number}.json"
    assert kinds(name) == {name: Kind.SIDECAR}


@pytest.mark.parametrize(
    "name",
    [
        *("metadata.json", "metadata(1).json", "user-generated-memory-titles.json", "package.json", "2019.json"),
        *("VID_1.mp4.json", "VID_20200930_155021.mp4.supplemental-metadata.json", "jpg.json", "IMG_1.json"),
        *("Screen_Recording_20230101-120000_You.mp4.supple.json", "IMG_1.jpg.metadata.txt", "IMG_1.txt", "IMG_1"),
        *("._IMG_1.jpg.xmp", "._IMG_1.jpg.json", "._IMG_1.AAE", "IMG_1.THM"),
    ],
)
def test_other_files_are_no_sidecars(name: str) -> None:
    assert kinds("IMG_1.jpg", name)[name] == Kind.OTHER


@pytest.mark.parametrize("photo", ["IMG_1.HEIC", "IMG_1.JPG", "IMG_1.jpeg", "IMG_1.heic", "IMG_1.PNG"])
@pytest.mark.parametrize("movie", ["IMG_1.MOV", "IMG_1.mov", "IMG_1.MP4", "IMG_1.mp4"])
def test_the_movie_of_a_live_photo_is_a_sidecar_whichever_is_listed_first(photo: str, movie: str) -> None:
    names = [f"2019/{name}" for name in (photo, movie, "IMG_1.JPG.xmp", "IMG_1.M", "IMG_1.z.jpg", "IMG_10.jpg")]
    assert kinds(*names)[f"2019/{movie}"] == Kind.SIDECAR


def test_a_movie_without_its_photo_is_no_sidecar() -> None:
    movies = ["b/IMG_1.MOV", "IMG_1.MOV", "a/IMG_10.MOV", "a/img_1.MOV", "a/IMG.MOV", "a/._IMG_1.MOV", "a/IMG_1.avi"]
    movies += ["a/clip.mp4", "a/dive.MOV"]
    found = kinds("a/IMG_1.HEIC", "a/IMG_1.edited.JPG", "a/clip.gif", "a/dive.NEF", *movies)
    assert {found[name] for name in movies} == {Kind.OTHER}


NAMES = st.lists(
    st.tuples(
        st.text("ab./-", max_size=5), st.sampled_from(["a", "a.b"]), st.sampled_from([".jpg", ".HEIC", ".MOV", ".mp4", ".xmp"])
    ).map("".join).filter(lambda name: not {"", ".", ".."} & set(name.split("/")) and "._" not in name),
    unique=True,
    max_size=60,
)  # fmt: skip


@given(names=NAMES, order=st.sampled_from(sorted(ORDERS)))
def test_pairs_are_found_in_both_orders_whatever_lies_between(names: list[str], order: str) -> None:
    photos = {name.rpartition(".")[0] for name in names if name.endswith((".jpg", ".HEIC"))}
    for name, kind in kinds(*names, order=order).items():
        if name.endswith((".MOV", ".mp4")):
            assert (kind == Kind.SIDECAR) == (name.rpartition(".")[0] in photos), name


def test_only_the_movie_waits_and_what_lies_between_goes_on() -> None:
    taken = 0

    def files() -> Iterator[File]:
        nonlocal taken
        between = [f"IMG_1.d/{number:05}.MOV" for number in range(10_000)]  # a folder, or a million of them
        for name in ["IMG_1.MOV", *between, "IMG_1.heic", "IMG_2.MOV"]:
            taken += 1
            yield file_of(name)

    given_out: list[tuple[str, Kind]] = []
    for file, kind in with_kinds(files()):
        given_out.append((file.relative, kind))
        assert taken - len(given_out) <= 2
    assert given_out[-3:] == [("IMG_1.heic", Kind.PHOTO), ("IMG_1.MOV", Kind.SIDECAR), ("IMG_2.MOV", Kind.OTHER)]
