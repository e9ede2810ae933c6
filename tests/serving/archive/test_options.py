"""The options of an archive are checked, and they decide which files are processed again."""

from __future__ import annotations

import json

import pytest

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving.archive.options import ArchiveOptions, Heic


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 1.6}, "strength 1.6: must be between 0"),
        ({"quality": 0}, "--quality 0: must be between 1 and 100"),
        ({"limit": 0}, "--limit 0: must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ArchiveOptions(**wrong)  # type: ignore[arg-type]


def test_globs_match_the_whole_name() -> None:
    options = ArchiveOptions(include=("2019/*", "*.png"), exclude=("*/thumbs/*",))
    taken = [name for name in ("2019/a.jpg", "2018/a.jpg", "b.png", "2019/thumbs/a.jpg") if options.takes(name)]
    assert taken == ["2019/a.jpg", "b.png"] and ArchiveOptions().takes("anything")


@pytest.mark.parametrize(
    ("heic", "name", "output", "format"),
    [
        ("heic", "a/IMG.1.HEIC", "a/IMG.1.HEIC", None),
        ("jpeg", "a/IMG.1.HEIC", "a/IMG.1.jpg", "JPEG"),
        ("avif", "b.hif", "b.avif", "AVIF"),
        ("jpeg", "a.png", "a.png", None),
        ("skip", "a.heif", "a.heif", None),
    ],
)
def test_only_a_heic_that_becomes_another_format_gets_another_name(
    heic: Heic, name: str, output: str, format: str | None
) -> None:
    options = ArchiveOptions(heic=heic)
    assert (options.output_of(name), options.format_of(name)) == (output, format)


def test_heics_are_left_alone_if_the_user_says_so() -> None:
    ArchiveOptions(heic="skip").refuse_skipped("a.jpg")
    ArchiveOptions().refuse_skipped("a.heic")
    with pytest.raises(ImageError, match=r"unsupported_format: .*--heic skip"):
        ArchiveOptions(heic="skip").refuse_skipped("a.HEIC")


def test_only_options_that_change_a_result_cause_new_work() -> None:
    first = ArchiveOptions()
    for same in (ArchiveOptions(limit=3), ArchiveOptions(keep_mtime=False), ArchiveOptions(include=("a",))):
        assert (same.of_enhanced, same.of_skipped) == (first.of_enhanced, first.of_skipped)
    for other in (ArchiveOptions(strength=0.5), ArchiveOptions(hdr="drop"), ArchiveOptions(heic="jpeg")):
        assert other.of_enhanced != first.of_enhanced
    assert ArchiveOptions(copy_others=True).of_skipped != first.of_skipped
    assert json.loads(first.of_enhanced) == {"strength": 1.0, "quality": None}
