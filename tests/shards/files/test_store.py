from __future__ import annotations

import pytest

from shards.files.store import Store


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    """An empty folder here and one in a bucket: they behave alike."""
    if request.param == "local":
        (tmp_path / "folder").mkdir()
        return Store(tmp_path / "folder")
    request.getfixturevalue("s3")
    return Store("s3://tests/folder")


def test_what_is_put_is_read_back_and_listed(store):
    store.put("b.bin", b"12345")
    with store.writing("a.tmp") as file:
        file.write(b"1")
        file.write(b"2")
    assert store.sizes() == {"a.tmp": 2, "b.bin": 5}
    assert store.read("b.bin") == b"12345"
    assert store.read("b.bin", 1, 4) == b"234"
    assert store.read("b.bin", 3, 12) == b"45"
    assert store.exists("a.tmp")
    assert not store.exists("c")


def test_a_file_has_its_name_once_it_is_whole_and_may_be_removed(store):
    with pytest.raises(TypeError), store.writing("a") as file:
        file.write("text")
    assert store.sizes() == {}
    store.put("a", b"old")
    store.put("a", b"new")
    assert store.read("a") == b"new"
    store.remove("a")
    assert store.sizes() == {}


def test_a_file_that_is_missing_is_named(store):
    with pytest.raises(FileNotFoundError, match=r"folder/none is missing"):
        store.read("none")


def test_a_folder_that_is_missing_is_empty(store):
    assert Store(f"{store.folder}/none").sizes() == {}


def test_files_of_deeper_folders_are_not_listed(store):
    store.put("a", b"1")
    deeper = Store(f"{store.folder}/deeper")
    deeper.files.makedirs(deeper.root, exist_ok=True)
    deeper.put("b", b"2")
    assert store.sizes() == {"a": 1}


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(ValueError, match=r"nonsense://x cannot be reached.*give a path, s3:// or"):
        Store("nonsense://x")
