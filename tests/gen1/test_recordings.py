import numpy as np
import pytest

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.recordings import Recording, find_recordings, list_recordings, open_recording
from gen1.spec import BOX, EVENT
from gen1.survey import survey


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_pairs_are_listed_by_split_and_name(tmp_path):
    make(tmp_path, "train/b_td.dat", "train/b_bbox.npy", "train/a_td.dat", "train/a_bbox.npy")
    make(tmp_path, "test/c_td.dat", "test/c_bbox.npy", "test/notes.txt")
    found = list_recordings(tmp_path)
    assert [(r.split, r.name) for r in found] == [("train", "a"), ("train", "b"), ("test", "c")]
    test = tmp_path / "test"
    assert found[2] == Recording("c", "test", test / "c_td.dat", test / "c_bbox.npy")


def test_root_without_split_folders_is_searched_itself(tmp_path):
    make(tmp_path, "a_td.dat", "a_bbox.npy")
    wanted = [Recording("a", "", tmp_path / "a_td.dat", tmp_path / "a_bbox.npy")]
    assert list_recordings(tmp_path) == wanted


def test_labels_are_optional_where_asked(tmp_path):
    make(tmp_path, "test/a_td.dat")
    assert list_recordings(tmp_path, require_labels=False)[0].boxes is None
    make(tmp_path, "test/b_bbox.npy")
    with pytest.raises(ValueError, match="without a recording"):
        list_recordings(tmp_path, require_labels=False)


def test_unpaired_files_are_counted_and_named_both_ways(tmp_path):
    make(tmp_path, *(f"val/{name}_td.dat" for name in "abcde"), "val/x_bbox.npy")
    with pytest.raises(ValueError, match="val: ") as error:
        list_recordings(tmp_path)
    message = str(error.value)
    assert "1 file without a recording (x_bbox.npy)" in message
    assert "5 files without labels (a_td.dat, b_td.dat, c_td.dat, ...)" in message


def test_empty_split_and_missing_root_are_named(tmp_path):
    make(tmp_path, "train/a_td.dat", "train/a_bbox.npy")
    (tmp_path / "val").mkdir()
    for root in (tmp_path, tmp_path / "val"):
        with pytest.raises(ValueError, match="val: holds no recordings"):
            list_recordings(root)
    with pytest.raises(ValueError, match="gone: no such directory"):
        list_recordings(tmp_path / "gone")


def test_a_text_file_lists_recordings(tmp_path):
    make(tmp_path, "train/b_td.dat", "train/b_bbox.npy", "other/a_td.dat", "other/a_bbox.npy")
    listing = tmp_path / "list.txt"
    listing.write_text(f"# two of them\ntrain/b_td.dat\n\n{tmp_path}/other/a_td.dat  # absolute\n")
    found = list_recordings(listing)
    assert [(r.split, r.name) for r in found] == [("", "a"), ("train", "b")]
    assert found[1].boxes == tmp_path / "train" / "b_bbox.npy"
    (tmp_path / "other" / "a_bbox.npy").unlink()
    assert list_recordings(listing, require_labels=False)[0].boxes is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "lists no recordings"),
        (b"train/gone_td.dat\n", r"lists .*gone_td\.dat, expected an existing"),
        (b"train/a_bbox.npy\n", r"lists .*a_bbox\.npy, expected an existing"),
        (b"train/b_td.dat\n", r"expected labels b_bbox\.npy beside it"),
        (b"train/a_td.dat\ntrain/a_td.dat\n", "two recordings of one name and split"),
        (b"\xff\xfe\x00", "is no text, expected a directory or a list"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, text, sentence):
    make(tmp_path, "train/a_td.dat", "train/a_bbox.npy", "train/b_td.dat")
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=sentence):
        list_recordings(tmp_path / "list.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "line", ["{}", "  {}\t", "{}  # the best", "{} #7", "\n# none yet\n   # nor here\n{}\n\n"]
)
@pytest.mark.parametrize("folder", ["plain", "two words", "run#3", "run #3", "a # b"])
def test_a_list_survives_other_editors(tmp_path, encoding, end, line, folder):
    make(tmp_path, f"{folder}/a_td.dat", f"{folder}/a_bbox.npy")
    text = (line.format(f"{folder}/a_td.dat") + "\n").replace("\n", end)
    (tmp_path / "list.txt").write_bytes(text.encode(encoding))
    (found,) = list_recordings(tmp_path / "list.txt")
    assert found.dat == tmp_path / folder / "a_td.dat"


@pytest.mark.parametrize("folder", ["train", "."])
@pytest.mark.parametrize("hidden", ["._a_td.dat", ".b_td.dat", "._a_bbox.npy", ".c_bbox.npy"])
def test_names_that_begin_with_a_dot_are_no_recordings(tmp_path, folder, hidden):
    make(tmp_path, f"{folder}/a_td.dat", f"{folder}/a_bbox.npy", f"{folder}/{hidden}")
    (tmp_path / "list.txt").write_text(
        f"{folder}/a_td.dat\n{folder}/{hidden}\n" * (".dat" in hidden)
    )
    sources = [tmp_path, *([tmp_path / "list.txt"] if ".dat" in hidden else [])]
    for source in sources:
        assert [recording.name for recording in list_recordings(source)] == ["a"]
    if folder == "train":
        assert survey(tmp_path).recordings["train"] == 1
    else:
        assert [recording.name for recording in find_recordings(tmp_path)] == ["a"]


@pytest.mark.parametrize("text", ["a_td.dat\n".encode("utf-16")[2:], b"a_td.dat\0", b"\xe9_td.dat"])
def test_what_is_no_text_is_no_list(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=r"list\.txt: is no text, expected .* UTF-8"):
        list_recordings(tmp_path / "list.txt")


EVENTS = np.array([(10, 1, 2, 0), (4000, 300, 200, 1)], EVENT)


def raw_recording(path):
    """The same two events as EVT 3: time high and low, row, column and polarity."""
    words = []
    for t_us, x, y, p in EVENTS.tolist():
        words += [0x8000 | t_us >> 12, 0x6000 | t_us & 0xFFF, y, 0x2000 | p << 11 | x]
    path.write_bytes(b"% evt 3.0\n% geometry 304x240\n" + np.array(words, "<u2").tobytes())


def test_a_file_is_one_recording_with_the_labels_beside_it(tmp_path):
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    write_dat(tmp_path / "other.dat", EVENTS, 240, 304)
    write_boxes(tmp_path / "a_bbox.npy", np.zeros(1, BOX))
    (a,) = find_recordings(tmp_path / "a_td.dat")
    (other,) = find_recordings(tmp_path / "other.dat")
    assert (a.name, a.boxes) == ("a", tmp_path / "a_bbox.npy")
    assert (other.name, other.boxes) == ("other", None)


def test_a_directory_is_all_recordings_in_it(tmp_path):
    raw_recording(tmp_path / "b.raw")
    write_boxes(tmp_path / "b_bbox.npy", np.zeros(1, BOX))
    assert [r.name for r in find_recordings(tmp_path)] == ["b"]
    (tmp_path / "b_bbox.npy").unlink()
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    raw_recording(tmp_path / "a.raw")  # what it was made of
    raw_recording(tmp_path / "c.RAW")
    raw_recording(tmp_path / "._b.raw")
    (tmp_path / "._a_td.dat").write_bytes(b"")
    found = [r.dat.name for r in find_recordings(tmp_path)]
    assert found == ["a_td.dat", "b.raw", "c.RAW"]
    (tmp_path / "test").mkdir()
    write_dat(tmp_path / "test" / "a_td.dat", EVENTS, 240, 304)
    found = [(r.split, r.dat.name) for r in find_recordings(tmp_path)]
    assert found == [("test", "a_td.dat"), ("", "a.raw"), ("", "b.raw"), ("", "c.RAW")]


def test_nothing_to_open_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file, expected a recording"):
        find_recordings(tmp_path / "x.dat")
    with pytest.raises(ValueError, match="holds no recordings"):
        find_recordings(tmp_path)


def test_raw_and_dat_recordings_hold_the_same(tmp_path):
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    raw_recording(tmp_path / "b.raw")
    for path in (tmp_path / "a_td.dat", tmp_path / "b.raw"):
        with open_recording(path) as reader:
            np.testing.assert_array_equal(reader.read(), EVENTS)
            assert (reader.height, reader.width) == (240, 304)
            temporary = reader.path
    assert not temporary.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a_td.dat", "b.raw"]
