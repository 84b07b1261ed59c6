"""Whole files and output folders."""

import os
import subprocess
import sys

import pytest

from jaxnas.runs import files


def test_write_whole_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    assert files.write_whole(path, b"first") == path
    files.write_whole(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = files.write_whole(tmp_path / "page.html", b"first")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="must be writable: got 'No space left on device'"):
        files.write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["page.html"]


def test_output_folder_is_made_with_its_parents(tmp_path):
    assert files.output_folder(tmp_path / "a" / "b").is_dir()
    assert files.output_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "c/d"])
def test_output_folder_in_a_file(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="name another folder"):
        files.output_folder(tmp_path / "file" / below)


def test_write_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        files.write_whole(tmp_path / "none" / "page.html", b"")


def test_partial_files_of_the_dead_are_removed_and_no_others(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    target = tmp_path / "page[1].html"
    left = [f".page[1].html.{dead.pid}", f".page1.html.{dead.pid}", f".page[1].html.{os.getppid()}"]
    left += [".page[1].html.old", f"page[1].html.{dead.pid}"]
    for name in left:
        (tmp_path / name).write_text("half")
    files.write_whole(target, b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted([target.name, *left[1:]])


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(tmp_path / "page.html", b"half")
    assert os.listdir(tmp_path) == []
