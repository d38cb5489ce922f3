"""Files on this machine and elsewhere; fsspec's memory stands for an object store."""

import pickle

import fsspec
import pytest

from destseg.batch_inspection.storage import Storage, absolute, join, list_files, list_paths
from destseg.data.samples import find_images
from destseg.errors import DataError, SettingsError

NAMES = ["2.png", "10.png", "a/1.png", "a/b/3.bmp"]


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, ".hidden.png", ".trash/4.png"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


@pytest.fixture
def remote():
    """The same files in fsspec's memory, emptied afterwards."""
    memory = fsspec.filesystem("memory")
    for name in [*NAMES, ".hidden.png", ".trash/4.png"]:
        memory.pipe(f"/plant/in/{name}", name.encode())
    yield "memory://plant/in"
    memory.rm("/plant", recursive=True)


def test_a_folder_is_listed_as_predict_lists_it(folder):
    root, files = list_files(str(folder))
    assert [f"{root}/{name}" for name, _ in files] == [str(p) for p in find_images(folder)]
    assert files == [(name, len(name)) for name in NAMES]


def test_a_folder_elsewhere_is_listed(remote):
    root, files = list_files(remote)
    assert (root, files) == (remote, sorted((name, len(name)) for name in NAMES))
    assert join(root, files[0][0]) == "memory://plant/in/10.png"


def test_the_region_in_a_models_folder_is_no_image_elsewhere_either(folder, remote):
    model = ["roi.png", "model/roi.png", "model/manifest.json", "model/weights.safetensors"]
    for name in [*model, "begun/roi.png", "begun/checkpoint.safetensors"]:
        fsspec.filesystem("memory").pipe(f"/plant/in/{name}", b"x")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for place in (str(folder), remote):
        names = {name for name, _ in list_files(place)[1]}
        assert {name for name in names if name.endswith("roi.png")} == {"roi.png"}


GLOBS = {
    "*.png": ["2.png", "10.png"],
    "**/*.png": ["2.png", "10.png", "a/1.png"],
    "a/*": ["a/1.png"],
    "*/*/*.bmp": ["a/b/3.bmp"],
    "[0-5].png": ["2.png"],
}


@pytest.mark.parametrize("pattern", GLOBS)
def test_globs_mean_the_same_everywhere(pattern, folder, remote):
    for place in (str(folder), remote):
        root, files = list_files(f"{place}/{pattern}")
        expected = sorted(join(place, name) for name in GLOBS[pattern])
        assert sorted(join(root, name) for name, _ in files) == expected


def test_one_file_is_a_listing_too(folder, remote):
    for place in (str(folder), remote):
        assert list_files(f"{place}/a/1.png") == (f"{place}/a", [("1.png", 7)])


def test_a_file_uri_is_a_path(folder):
    assert absolute(f"file://{folder}") == str(folder)
    assert list_files(f"file://{folder}") == list_files(str(folder))


@pytest.mark.parametrize("place", ["nothing/there", "nothing/*.png", "memory://nothing"])
def test_nothing_there_is_an_error(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nothing.*: expected"):
        list_files(place)


def test_an_unknown_scheme_says_what_to_do():
    with pytest.raises(SettingsError, match=r"nosuch://x/y: expected a path, or a URI .* Install"):
        list_files("nosuch://x/y")


def test_paths_of_a_list_are_taken_once_and_may_be_missing(tmp_path):
    paths = [tmp_path / "b/2.png", tmp_path / "a/1.png", tmp_path / "b/../b/2.png"]
    root, files = list_paths(paths)
    assert (root, files) == (str(tmp_path), [("b/2.png", -1), ("a/1.png", -1)])
    assert list_paths(paths[:1]) == (str(tmp_path / "b"), [("2.png", -1)])


def test_options_of_a_uri_are_no_part_of_a_name():
    assert join("s3://b/in?region=eu", "1.png") == "s3://b/in/1.png"
    assert join("/in?region", "1.png") == "/in?region/1.png"
    assert join("/", "1.png") == "/1.png"


def test_what_is_written_can_be_read_elsewhere(tmp_path, remote):
    for place in (str(tmp_path / "out"), "memory://plant/out"):
        storage = pickle.loads(pickle.dumps(Storage(place)))
        assert storage.names() == []
        storage.write("a", b"1")
        storage.write("a", b"22")
        storage.write("b", b"")
        assert sorted(storage.names()) == ["a", "b"]
        assert Storage(place).read("a") == b"22"
        with storage.open("a") as file:
            assert file.read() == b"22"
        storage.delete("b")
        assert storage.names() == ["a"]


def test_a_passing_fault_of_the_network_is_tried_again(remote, monkeypatch):
    monkeypatch.setattr("destseg.batch_inspection.storage._PAUSES", (0, 0))
    storage, faults = Storage(remote), [OSError("slow down"), OSError("slow down")]
    read = Storage._read

    def sometimes(self, name):
        if faults:
            raise faults.pop()
        return read(self, name)

    monkeypatch.setattr(Storage, "_read", sometimes)
    assert storage.read("2.png") == b"2.png"
    faults += [OSError("slow down")] * 3
    with pytest.raises(OSError, match="slow down"):
        storage.read("2.png")
    assert faults == []
    faults += [FileNotFoundError(2, "gone"), OSError("never asked")]
    faults.reverse()
    with pytest.raises(FileNotFoundError):
        storage.read("2.png")
    assert len(faults) == 1
