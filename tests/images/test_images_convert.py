"""VOC and YOLO labels of the same pictures become the same json."""

import json

import pytest

from images.coco import read_coco
from images.convert import main


@pytest.fixture
def labelled(pictures, tmp_path):
    """The set's labels as VOC and as YOLO write them."""
    content = json.loads(pictures[1].read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for folder in ("voc", "yolo"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data.yaml").write_text("names: {0: green, 1: red}")
    for image in content["images"]:
        objects, lines = [], []
        stem, width, height = image["file_name"][:-4], image["width"], image["height"]
        for row in content["annotations"]:
            if row["image_id"] == image["id"]:
                x, y, w, h = row["bbox"]
                corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
                box = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners.items())
                name = names[row["category_id"]]
                objects.append(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>")
                k = ("green", "red").index(name)
                parts = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                lines.append(f"{k} " + " ".join(f"{part:.9f}" for part in parts))
        xml = f"<annotation>{''.join(objects)}</annotation>"
        (tmp_path / "voc" / f"{stem}.xml").write_text(xml)
        (tmp_path / "yolo" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_both_give_the_boxes_that_there_are(labelled, pictures, kind, capsys):
    out = labelled / f"{kind}.json"
    assert main([kind, str(labelled / kind), str(pictures[0]), str(out)]) == 0
    assert "4 pictures, 8 boxes of green, red" in capsys.readouterr().out
    found, truth = read_coco(out, pictures[0]), read_coco(pictures[1], pictures[0])
    for ours, theirs in zip(found.pictures, truth.pictures, strict=True):
        assert ours.path == theirs.path
        names = [found.categories[k] for k in ours.classes]
        assert sorted(names) == sorted(truth.categories[k] for k in theirs.classes)
        by_name = dict(zip(names, ours.boxes.tolist(), strict=True))
        for k, box in zip(theirs.classes, theirs.boxes.tolist(), strict=True):
            assert by_name[truth.categories[k]] == pytest.approx(box, abs=1e-5)


def test_a_list_names_the_pictures_of_a_split(labelled, pictures):
    (labelled / "val.txt").write_text("p2\np0\n")
    out = labelled / "val.json"
    words = ["voc", str(labelled / "voc"), str(pictures[0]), str(out)]
    assert main([*words, "--names", str(labelled / "val.txt")]) == 0
    assert [p.path.name for p in read_coco(out, pictures[0]).pictures] == ["p2.png", "p0.png"]


def empty_box(folder):
    path = folder / "voc/p1.xml"
    path.write_text(path.read_text().replace("<xmax>", "<xmax>-"))


def test_boxes_without_area_are_counted(labelled, pictures, capsys):
    empty_box(labelled)
    words = ["voc", str(labelled / "voc"), str(pictures[0]), str(labelled / "out.json")]
    assert main(words) == 0
    assert "6 boxes of green, red; left out: 2 without area" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "name", "text", "sentence"),
    [
        ("voc", "p0.xml", "<annotation>", "p0.xml: cannot be understood"),
        ("yolo", "p0.txt", "1 0.5 0.5", "p0.txt: line 1: '1 0.5 0.5', expected class cx cy w h"),
        (
            "yolo",
            "p0.txt",
            "7 0.5 0.5 0.1 0.1",
            "expected a class of data.yaml: {0: 'green', 1: 'red'}",
        ),
        ("yolo", "../data.yaml", "a: 1", "data.yaml: cannot be understood"),
    ],
)
def test_labels_that_cannot_be_understood_are_one_sentence(
    labelled, pictures, capsys, kind, name, text, sentence
):
    (labelled / kind / name).write_text(text)
    out = labelled / "out.json"
    assert main([kind, str(labelled / kind), str(pictures[0]), str(out)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_real_blood_cells_are_converted(shared_data, tmp_path):
    folder = shared_data("bccd") / "BCCD"
    names = folder / "ImageSets/Main/test.txt"
    words = ["voc", folder / "Annotations", folder / "JPEGImages", tmp_path / "test.json"]
    assert main([*map(str, words), "--names", str(names)]) == 0
    found = read_coco(tmp_path / "test.json", folder / "JPEGImages")
    assert (len(found.pictures), found.categories) == (72, ("Platelets", "RBC", "WBC"))
