import pytest

from destseg.data.labelled import labelled_samples
from destseg.data.samples import Sample
from destseg.errors import DataError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_gives_label_and_mask_of_each_image_from_its_own_folder(tmp_path):
    listed = write(
        tmp_path / "labels.CSV",
        "Mask,Path,Label,note\n,a.png,OK,x\nm/b.png,deep/b.png,scratch,\n,/c.png,dent,\n,d.png,0,\n",
    )
    assert labelled_samples(listed) == [
        Sample(tmp_path / "a.png", "good"),
        Sample(tmp_path / "deep/b.png", "scratch", tmp_path / "m/b.png"),
        Sample(tmp_path.__class__("/c.png"), "dent"),
        Sample(tmp_path / "d.png", "good"),
    ]


def test_semicolons_part_columns_too(tmp_path):
    listed = write(tmp_path / "labels.csv", "path;label\na.png;good\n")
    assert labelled_samples(listed) == [Sample(tmp_path / "a.png", "good")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path\na.png\n", "columns named label"),
        ("file,kind\na.png,good\n", "columns named path and label"),
        ("", "columns named path and label"),
        ("path,label\n", "a header alone"),
        ("path,label\na.png,\nb.png,good\n", "1 of 2 have none: a.png"),
        ("path,label\n,good\n", "2 cells a row"),
        ("path,label\na.png,good,dent\n", "2 cells a row"),
        ("path,label\na.png,good\na.png,dent\n", "one label an image, got 'good' and 'dent'"),
    ],
)
def test_tables_that_do_not_say_what_images_are_are_refused(text, reason, tmp_path):
    with pytest.raises(DataError, match=reason) as caught:
        labelled_samples(write(tmp_path / "labels.csv", text))
    assert "labels.csv" in str(caught.value)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv"):
        labelled_samples(tmp_path / "labels.csv")
