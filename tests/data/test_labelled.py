import pytest

from destseg.data.labelled import labelled_samples
from destseg.data.lists import read_list
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


@pytest.mark.parametrize("called", ["label", "Labels", "class", "kind", "defect_type"])
def test_the_label_may_be_called_as_in_lists_of_good_images(tmp_path, called):
    listed = write(tmp_path / "labels.csv", f"path,{called}\na.png,dent\nb.png,good\n")
    samples = [Sample(tmp_path / "a.png", "dent"), Sample(tmp_path / "b.png", "good")]
    assert labelled_samples(listed) == samples
    assert [label for _, label in read_list(listed)] == ["dent", "good"]


@pytest.mark.parametrize(
    "label", ["good", "no defect", "No_Anomaly", "FALSE", "0", "no damage", "not defective", "合格"]
)
def test_what_says_that_a_part_is_good_does(tmp_path, label):
    listed = write(tmp_path / "labels.csv", f"path,label\na.png,{label}\nb.png,no_thread\n")
    assert [each.defect_type for each in labelled_samples(listed)] == ["good", "no_thread"]


def test_semicolons_part_columns_too(tmp_path):
    listed = write(tmp_path / "labels.csv", "path;label\na.png;good\n")
    assert labelled_samples(listed) == [Sample(tmp_path / "a.png", "good")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path\na.png\n", "columns named label"),
        ("file,kind\na.png,good\n", "columns named path, got file, label"),
        ("", "columns named path and label"),
        ("path,label\n", "a header alone"),
        ("path,label\na.png,\nb.png,good\n", "1 of 2 have none: a.png"),
        ("path,label\n,good\n", "2 cells a row"),
        ("path,label\na.png,good,dent\n", "2 cells a row"),
        ("path,label\na.png,good\na.png,dent\n", "one label an image, got 'good' and 'dent'"),
        ("path,label\na.png,good\n./x/../a.png,dent\n", "one label an image"),
        (
            "path,label,mask\na.png,dent,1.png\na.png,dent,2.png\n",
            "one mask an image, got .*1.png and .*2.png for .*Draw both into one file",
        ),
        ("path,label,mask\na.png,dent,1.png\na.png,dent,\n", "one mask an image, got .*None"),
        *(
            (
                f"path,{column}\na.png,{label}\nb.png,dent\n",
                f"got '{label}' \\(1\\).*good parts good",
            )
            for column in ("label", "defect_type")
            for label in ("none", "No", "N/A", "nan", "unknown", "yes", "negative", "--")
        ),
    ],
)
def test_tables_that_do_not_say_what_images_are_are_refused(text, reason, tmp_path):
    with pytest.raises(DataError, match=reason) as caught:
        labelled_samples(write(tmp_path / "labels.csv", text))
    assert "labels.csv" in str(caught.value)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv"):
        labelled_samples(tmp_path / "labels.csv")


def test_an_image_that_a_table_says_again_counts_once(tmp_path, caplog):
    table = f"path,label\nb.png,dent\na.png,good\nb.png,dent\n{tmp_path / 'a.png'},good\n"
    found = labelled_samples(write(tmp_path / "labels.csv", table))
    assert [(each.path.name, each.defect_type) for each in found] == [
        ("b.png", "dent"),
        ("a.png", "good"),
    ]
    assert "left out the rows that say an image again (2)" in caplog.text
