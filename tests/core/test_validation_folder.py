"""Pictures with their own validation split: it is read, replaced or refused, with a message."""

import pytest

from core.errors import UserError
from tests.pictures import all_labels, first_values, numbered, opened, png, table

CLASSES = ("ant", "bee")


def three(root, train="train", val="val", test="test", labelled=True):
    """30, 6 and 4 pictures of different grey values."""
    files, splits = [], [train] * 30 + [val] * 6 + [test] * 4
    for i, name in enumerate(splits):
        place = f"{name}/{CLASSES[i % 2]}" if labelled else name
        files += [f"{place}/{i}.png"] if name else []
    png(root, *files)
    return root


def sizes(root, **more):
    return [len(opened(root, split, **more)) for split in ("train", "val", "trainval", "test")]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("train", "valid", "test"), ("Training", "Dev", "Testing")]
    + [("train", "VALIDATION", "TEST")],
)
def test_a_validation_folder_is_the_validation_split(names, labelled, memory, tmp_path, capfd):
    three(tmp_path, *names, labelled=labelled)
    assert sizes(tmp_path, memory=memory) == [30, 6, 36, 4]
    val = opened(tmp_path, "val", memory=memory)
    assert sorted(first_values(val)) == list(range(30, 36))
    assert sorted(first_values(opened(tmp_path, "test"))) == list(range(36, 40))
    if labelled:
        assert val.factors == {"class": 2} and val.identity.classes == CLASSES
        assert sorted(all_labels(val)) == [[0]] * 3 + [[1]] * 3
        both = zip(first_values(val), all_labels(val), strict=True)
        assert all(value % 2 == label for value, (label,) in both)
    said = capfd.readouterr().err
    assert said.count("has its own validation split of 6 pictures\n") == 1


def test_data_validation_overrides_it_and_says_so(tmp_path, capfd):
    three(tmp_path)
    assert sizes(tmp_path, validation=0.1) == [27, 3, 30, 4]
    assert max(first_values(opened(tmp_path, "val", validation=0.1))) < 30
    assert "6 pictures; it is not used, because 0.1 is held out of train instead" in (
        capfd.readouterr().err
    )
    own, other = opened(tmp_path, "val"), opened(tmp_path, "val", validation=6)
    assert own.identity.fingerprint != other.identity.fingerprint


@pytest.mark.parametrize("word", ["val", "valid", "Validation", "dev"])
def test_a_column_of_splits_is_overridden_in_the_same_way(word, tmp_path, capfd):
    numbered(tmp_path, 40)
    rows = [f"{i}.png,{word if 30 <= i < 36 else 'train' if i < 30 else 'test'}" for i in range(40)]
    table(tmp_path, "path,split\n" + "\n".join(rows))
    assert sizes(tmp_path, list="list.csv") == [30, 6, 36, 4]
    assert "has its own validation split of 6 pictures" in capfd.readouterr().err
    assert sizes(tmp_path, list="list.csv", validation=5) == [25, 5, 30, 4]
    assert "it is not used, because 5 is held out" in capfd.readouterr().err


@pytest.mark.parametrize("labelled", [True, False])
def test_without_test_the_validation_folder_is_the_test_split(labelled, tmp_path, capfd):
    three(tmp_path, val="valid", test="", labelled=labelled)
    assert sizes(tmp_path) == [27, 3, 30, 6]
    assert "no folder 'test', so 'valid' is the test split" in capfd.readouterr().err


def test_without_test_and_validation_a_test_split_is_cut(tmp_path, capfd):
    three(tmp_path, train="training", val="", test="")
    assert sizes(tmp_path) == [25, 2, 27, 3]
    assert "30 pictures in 2 classes; there is no test split, so 3" in capfd.readouterr().err


def test_other_folders_and_pictures_beside_the_splits_are_named(tmp_path, capfd):
    three(tmp_path)
    png(tmp_path, "unlabelled/0.png", "loose.png")
    (tmp_path / "README.txt").write_text("words")
    assert sizes(tmp_path)[0] == 30
    assert "2 other folders or pictures are ignored, such as 'loose.png'" in capfd.readouterr().err


@pytest.mark.parametrize(
    "folders, said",
    [
        (["train", "val", "valid"], "holds 'val' and 'valid', which both name the val split"),
        (["train", "Train", "test"], "which both name the train split"),
        (["Testing"], "holds a folder 'Testing', but no folder 'train'"),
        (["dev", "cats"], "holds a folder 'dev', but no folder 'train'"),
    ],
)
def test_folders_whose_meaning_is_unclear_are_one_line(folders, said, tmp_path):
    png(tmp_path, *(f"{name}/a/{i}.png" for name in folders for i in range(4)))
    with pytest.raises(UserError, match=said) as error:
        opened(tmp_path, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_that_only_validation_has_is_one_line(split, tmp_path):
    three(tmp_path)
    png(tmp_path, "val/wasp/0.png")
    with pytest.raises(UserError, match="holds the class 'wasp', which the train split lacks"):
        opened(tmp_path, split)
