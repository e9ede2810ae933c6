"""The plan names the files that a run must process, and originals stay safe."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.pipeline.listing import list_files
from naturaltone.serving.archive import planner, preview
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import FOLDER, LOCK, Report
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs, statuses

pytestmark = pytest.mark.usefixtures("ray_cluster")
ToFile = Callable[..., bytes]


def test_a_second_run_on_the_same_target_is_refused(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from naturaltone.pipeline import lease

    target = tmp_path / "enhanced"
    with lease.hold(str(target / FOLDER / LOCK), what="it"):
        command = ["enhance", str(photo_folder), str(target), "--model", str(bundle_folder)]
        assert cli.main(command) == exit_codes.WRONG_USAGE
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"process {os.getpid()} on" in line and "is writing there" in line and str(target) in line
    assert outputs(target) == {}


_ODD_NAMES = [
    b"a b.jpg", b"quote'\".jpg", b"new\nline.jpg", "gr\u00fc\u00dfe \N{SMILING FACE WITH SUNGLASSES}.jpg".encode(),
    b"not utf-8 \xff\xfe.jpg", b"back\\xff.jpg", b"%20#?.jpg", b"-rf.jpg", b"A.jpg", b"a.jpg", b".hidden.jpg",
]  # fmt: skip


def test_photos_with_odd_names_are_enhanced(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = os.fsencode(tmp_path / "source"), os.fsencode(tmp_path / "target")
    os.mkdir(source)
    for number, name in enumerate(_ODD_NAMES):
        with open(os.path.join(source, name), "wb") as file:
            file.write(to_file(np.roll(photo, number, axis=1)))
    summary = enhance_archive(os.fsdecode(source), os.fsdecode(target), enhancer)
    assert summary.counts == {"enhanced": len(_ODD_NAMES)}
    assert sorted(set(os.listdir(target)) - {FOLDER.encode()}) == sorted(_ODD_NAMES)
    assert enhance_archive(os.fsdecode(source), os.fsdecode(target), enhancer).unchanged == len(_ODD_NAMES)
    page = tmp_path / "sheet.html"
    with Report(os.fsdecode(target)) as report:
        preview.write_contact_sheet(str(page), os.fsdecode(source), os.fsdecode(target), report)
    assert page.read_text().count('class="photo"') == len(_ODD_NAMES)


def test_names_that_differ_only_in_case_do_not_overwrite_each_other_if_the_disk_ignores_case(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("IMG.jpg", "img.jpg", "other.jpg"):
        (tmp_path / "source" / name).write_bytes(to_file(photo))
    monkeypatch.setattr(planner, "_folds_case", lambda target: True)  # as macOS' and Windows' disks do
    summary = enhance_archive(str(tmp_path / "source"), str(tmp_path / "target"), enhancer)
    assert summary.counts == {"enhanced": 2, "failed": 1}
    assert statuses(tmp_path / "target")["img.jpg"] == ("failed", "name_collision")
    assert enhance_archive(str(tmp_path / "source"), str(tmp_path / "target"), enhancer).counts == {"failed": 1}
    assert not (tmp_path / "target" / "img.jpg").exists(), "the next run does not write it either"


def test_originals_are_safe_if_the_target_is_another_name_for_them(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    data = to_file(photo)
    (source / "sub" / "a.jpg").write_bytes(data)
    (source / "sub" / "a.jpg.xmp").write_text("<x/>")
    os.symlink(source / "sub", target / "sub")
    summary = enhance_archive(str(source), str(target), enhancer)
    assert summary.reasons == {"output_exists": 1} and (source / "sub" / "a.jpg").read_bytes() == data
    os.symlink(source, tmp_path / "also source")
    for folder in (tmp_path / "also source", tmp_path / "also source" / "sub"):
        with pytest.raises(ValueError, match="overlap"):
            enhance_archive(str(source), str(folder), enhancer)


def test_limit_and_globs_choose_files_and_the_next_run_does_new_and_changed_photos(
    photo_folder: Path, enhancer: Enhancer, photo: np.ndarray, to_file: ToFile, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(photo_folder, source)
    some = enhance_archive(
        str(source), str(target), enhancer, ArchiveOptions(include=("below/*", "0[1-4].jpg"), exclude=("*3*",))
    )
    assert some.counts == {"enhanced": 5} and set(outputs(target)) == {
        "below/00.png", "below/12.png", "01.jpg", "02.jpg", "04.jpg",
    }  # fmt: skip
    assert enhance_archive(str(source), str(target), enhancer, ArchiveOptions(limit=4)).counts == {"enhanced": 4}
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 15}
    (source / "new.jpg").write_bytes(to_file(photo))
    (source / "01.jpg").write_bytes(to_file(photo[::-1].copy()))
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 2}


def test_a_folder_that_cannot_be_read_is_reported_and_the_run_continues(photo_folder: Path) -> None:
    with tempfile.TemporaryDirectory() as parent:  # other users cannot read pytest's own folders
        source = Path(parent, "source")
        shutil.copytree(photo_folder, source)
        for folder in (parent, str(source)):
            os.chmod(folder, 0o755)
        (source / "below").chmod(0)
        (source / "closed").mkdir()
        (source / "closed" / "a.jpg").touch()
        (source / "closed").chmod(0o444)  # file names can be read, but files cannot
        os.mkfifo(source / "pipe.jpg")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:  # the child must exit here, or it would run the rest of the tests too
                if os.getuid() == 0:
                    os.setuid(65534)  # root reads everything
                files = list_files(str(source), stay=True)
                found = {file.relative: file.problem and [file.problem.reason, file.problem.detail] for file in files}
                os.write(writing, json.dumps(found).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found = json.load(pipe)
        os.waitpid(child, 0)
        for name in ("below", "closed"):
            (source / name).chmod(0o755)
    assert found.pop("pipe.jpg") == ["not_followed", "a pipe, socket or device"]
    assert found.pop("closed/a.jpg") == ["unreadable", "it cannot be looked at (permission denied); allow it"]
    assert found.pop("below") == ["unreadable", "the folder cannot be listed (permission denied); allow it"]
    assert len(found) == 22 and not any(found.values())
