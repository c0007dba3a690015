"""A user's own pictures: folders without labels, class folders without splits, and lists."""

import pytest
import torch

from core.data.datasets import DataConfig, open_source
from core.data.held_out import held_out
from core.data.lists import read_list
from core.data.source import eval_sampler
from core.errors import UserError
from tests.pictures import PLAIN, all_labels, first_values, numbered, opened, png, table


@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize("where", ["IMG_{:03}.png", "a/{:03}.png", "train/x{:03}.png"])
def test_pictures_without_labels_are_divided_into_three_disjoint_splits(
    where, memory, tmp_path, capfd
):
    numbered(tmp_path, 60, where)
    more = {"labels": "none"} if where.startswith("a/") else {}
    if where.startswith("IMG"):
        png(tmp_path, "more/deep/other.png")
    n = 61 if where.startswith("IMG") else 60
    parts = {}
    for split in ("train", "val", "test", "trainval"):
        source = opened(tmp_path, split, memory=memory, **more)
        parts[split] = len(source)
        assert source.factors == {} and source.identity.factors == {}
        (batch,) = source.batches(eval_sampler(len(source), block=1000), 2)
        assert batch.label.shape == (len(source), 0) and len(batch.views) == 2
    assert parts == {"test": n // 10, "val": (n - n // 10) // 10} | {
        "train": n - n // 10 - (n - n // 10) // 10,
        "trainval": n - n // 10,
    }
    if not where.startswith("IMG"):
        values = [first_values(opened(tmp_path, s, **more)) for s in ("train", "val", "test")]
        assert sorted(sum(values, [])) == list(range(60))
    said = capfd.readouterr().err
    assert f"{n} pictures without labels" in said and "there is no test split, so 6 of" in said


def test_a_test_folder_is_used_and_nothing_is_cut(tmp_path, capfd):
    png(tmp_path, *(f"train/{i}.png" for i in range(20)), "test/0.png", "test/1.png")
    assert [len(opened(tmp_path, split)) for split in ("trainval", "test")] == [20, 2]
    assert "no test split" not in capfd.readouterr().err


def test_folders_without_splits_are_classes_unless_pictures_lie_beside_them(tmp_path, capfd):
    png(tmp_path, *(f"{c}/{i}.png" for c in ("cat", "dog", "10", "9") for i in range(10)))
    source = opened(tmp_path, "trainval")
    assert source.identity.classes == ("9", "10", "cat", "dog") and len(source) == 36
    assert len(opened(tmp_path, "test")) == 4
    assert "40 pictures in 4 classes (if its folders are not classes, set data.labels=none)" in (
        capfd.readouterr().err
    )
    assert opened(tmp_path, "train", labels="none").factors == {}
    png(tmp_path, "loose.png")
    assert opened(tmp_path, "train").factors == {}
    assert opened(tmp_path, "train", labels="folders").factors == {"class": 4}


@pytest.mark.parametrize(
    "wanted, n, count",
    [("auto", 60_000, 2048), ("auto", 1080, 108), ("auto", 5, 1), (0.25, 1000, 250), (7, 100, 7)]
    + [(7.0, 100, 7), (0.001, 100, 1)],
)
def test_the_number_held_out(wanted, n, count):
    assert held_out(wanted, n) == count


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "half", True, float("nan"), 2**70 + 0.5j])
def test_a_wrong_share_names_the_key(wrong):
    with pytest.raises((ValueError, TypeError), match="validation"):
        DataConfig(validation=wrong)


def test_a_table_names_paths_labels_and_splits(tmp_path, capfd):
    numbered(tmp_path / "pics", 12)
    rows = [
        f"pics/{i}.png;{('ant', 'bee', 'cat')[i % 3]};{i % 2};{split};{i * 7}"
        for i, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)
    ]
    table(tmp_path, "file;species;sex;split;weight\n" + "\n".join(rows) + "\n\n")
    more = {"list": "list.csv", "labels": "species,sex"}
    train, val, test = (opened(tmp_path, split, **more) for split in ("train", "val", "test"))
    assert train.factors == {"species": 3, "sex": 2} and len(val) == 3
    assert all_labels(train) == [[i % 3, i % 2] for i in range(6)]
    assert all_labels(test) == [[i % 3, i % 2] for i in range(9, 12)]
    assert first_values(test) == [9, 10, 11] and first_values(train) == list(range(6))
    assert train.identity.classes[:4] == ("species: ant", "species: bee", "species: cat", "sex: 0")
    assert "labels: species, sex (other columns: weight;" in capfd.readouterr().err
    streamed = opened(tmp_path, "test", memory=0.0, **more)
    assert all_labels(streamed) == all_labels(test)
    assert opened(tmp_path, "test", list="list.csv").factors == {}
    other = opened(tmp_path, "test", list="list.csv", labels="species")
    assert len({s.identity.fingerprint for s in (test, streamed, other)}) == 3


def test_the_labels_of_a_damaged_picture_are_those_of_its_replacement(tmp_path):
    numbered(tmp_path, 8)
    (tmp_path / "2.png").write_bytes(b"no picture")
    lines = [f"{i}.png,{i},{'train' if i < 6 else 'test'}" for i in range(6)]
    table(tmp_path, "path,label,split\n" + "\n".join([*lines, "6.png,0,test"]))
    for memory in (1.0, 0.0):
        more = {"list": "list.csv", "skip": 0.4, "memory": memory, "validation": 1}
        source = opened(tmp_path, "trainval", **more)
        assert [label for (label,) in all_labels(source)] == first_values(source)


def test_a_text_file_lists_paths(tmp_path):
    numbered(tmp_path, 10, "in here/{}.png")
    table(tmp_path, "\n".join(f"in here/{i}.png" for i in (1, 3, 5, 7, 9)), "some.txt")
    found = [first_values(opened(tmp_path, s, list="some.txt")) for s in ("trainval", "test")]
    assert sorted(sum(found, [])) == [1, 3, 5, 7, 9]


def test_a_table_without_a_header_and_paths_beside_the_list(tmp_path):
    numbered(tmp_path / "far", 6)
    table(tmp_path / "far", "\n".join(f"{i}.png,{'ab'[i % 2]}" for i in range(6)))
    source = opened(tmp_path, "trainval", list=str(tmp_path / "far/list.csv"))
    assert source.factors == {"label": 2} and len(source) == 5


@pytest.mark.parametrize(
    "text, more, said",
    [
        ("path,label\n0.png,a\n9.png,b\n1.png,a", {}, "1 of 3 pictures of .* do not exist, such"),
        ("path,label\n0.png,a\n1.png", {}, "line 3 has 1 cells, but the first line has 2"),
        ("path,label\n0.png,a\n1.png,\n2.png,a", {}, "row 2 has no 'label'"),
        ("path,label\n0.png,a\n1.png,a\n2.png,a", {"labels": "lable"}, "did you mean 'label'"),
        ("path,split\n0.png,train\n1.png,best\n2.png,test", {}, "row 2 has 'best' in column 'spl"),
        ("path,split\n0.png,test\n1.png,test\n2.png,test", {}, "no row whose split is train"),
        ("path,split\n0.png,train\n./0.png,test\n2.png,train", {}, "is in two splits"),
        (
            "path,label,split\n0.png,a,train\n1.png,a,train\n2.png,b,test",
            {},
            "no training picture has label = 'b'",
        ),
        ("", {}, "names no pictures"),
        ("path\n", {}, "names no pictures"),
        ("path,label,label\n0.png,1,1", {}, "two columns are named 'label'"),
        ("path\n0.png\n1.png\n2.png", {"labels": "folders"}, "a list has columns"),
        ("path\n0.png\n1.png", {}, "2 pictures can not be divided"),
        ("path\n\udcff", {}, "is not UTF-8"),
        ('path\n"' + "a" * 200_000 + '"', {}, "close an open quotation mark"),
        ("path,label\n0.png,\x1b[2J\n1.png,b\n2.png,c,d", {}, "line 4 has 3 cells"),
    ],
)
def test_a_wrong_list_is_one_line_that_names_the_place(text, more, said, tmp_path):
    numbered(tmp_path, 4)
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as error:
        opened(tmp_path, "train", list="list.csv", **more)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_list_that_is_missing_and_keys_for_other_sets(tmp_path):
    numbered(tmp_path, 4)
    with pytest.raises(UserError, match=r"none\.csv is not a file"):
        opened(tmp_path, "train", list="none.csv")
    with pytest.raises(UserError, match="to use columns of a list, set data.list"):
        opened(tmp_path, "train", labels="species")
    with pytest.raises(ValueError, match="labels: only data.name=folder reads it"):
        DataConfig(name="mnist", labels="none")


def test_a_checkpoint_may_name_a_list_only_in_its_folder(tmp_path):
    numbered(tmp_path / "pics", 6)
    for place in (tmp_path / "pics", tmp_path):
        table(place, "path\n" + "\n".join(f"{i}.png" for i in range(6)))
    for name, allowed in (("list.csv", True), ("../list.csv", False), ("/etc/passwd", False)):
        data = DataConfig(**{**PLAIN, "root": str(tmp_path / "pics"), "list": name})
        # the user may have named nothing, the folder, or the kind and the folder
        for doubtful in (("name", "root", "list"), ("name", "list"), ("list",)):
            data.doubtful = doubtful
            if allowed:
                assert len(open_source(data, "test", 0)) == 1
            else:
                with pytest.raises(UserError, match="not a file in data.root"):
                    open_source(data, "test", 0)


def test_a_fixed_cut_does_not_depend_on_the_seed_of_the_run(tmp_path):
    numbered(tmp_path, 30)
    first, second = (
        open_source(DataConfig(**{**PLAIN, "root": str(tmp_path)}), "test", seed) for seed in (0, 5)
    )
    assert torch.equal(first.images, second.images)


def test_auto_takes_the_first_label_column_and_a_column_named_twice_is_one(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("path,label,class\na.png,x,u\nb.png,y,v\n")
    found = read_list(file, "auto")
    assert found.labels == {"label": ["x", "y"]} and found.others == ("class",)
    assert list(read_list(file, "label, class,label").labels) == ["label", "class"]


def test_all_images_can_not_be_held_out():
    assert held_out(7, 8) == 7
    with pytest.raises(UserError, match="8 images can not be held out of 8"):
        held_out(8, 8)


def test_the_mark_with_which_some_programs_begin_a_list_is_no_part_of_a_name(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("label,path\nx,a.png\n", "utf-8-sig")
    assert read_list(file, "auto").labels == {"label": ["x"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n0.png,a\n,b\n2.png,a", "row 2 has no path"),
        ("label,path\na,\nb,1.png\na,2.png", "row 1 has no path"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n2.png,a,test", "row 2 has"),
    ],
)
def test_every_row_of_a_list_has_a_path_and_a_split(text, said, tmp_path):
    numbered(tmp_path, 4)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        opened(tmp_path, "train", list="list.csv")
