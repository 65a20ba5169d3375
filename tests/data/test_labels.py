import pytest

from autoq.data import class_indices
from autoq.data.labels import ClassMapping
from autoq.errors import DataError


def test_by_name_without_regard_to_case_and_underscores() -> None:
    assert class_indices(["Dog", "cat"], ("cat", "bird", "dog"), 3) == ClassMapping((2, 0), "name")
    assert class_indices(["great_white_shark"], ("Great white shark", "dog"), 2) == ClassMapping((0,), "name")
    assert class_indices(["2", "0"], ("0", "1", "2"), 3).by == "name"


def test_by_another_name_of_each_output() -> None:
    asked: list[int] = []

    def alternatives() -> list[tuple[str, ...]]:
        asked.append(1)
        return [("tench",), ("goldfish", "crane"), ("crane",)]

    names = ("n1", "n2", "n3")
    assert class_indices(["n2"], names, 3, alternatives) == ClassMapping((1,), "name")
    assert not asked
    assert class_indices(["Tench", "n3"], names, 3, alternatives) == ClassMapping((0, 2), "name")
    with pytest.raises(DataError, match="class folder 'crane'"):
        class_indices(["crane"], names, 3, alternatives)


def test_by_index_whatever_the_outputs_are_called() -> None:
    assert class_indices(["0", "003"], ("a", "b", "c", "d"), 4) == ClassMapping((0, 3), "index")
    assert class_indices(["0", "3"], None, 4) == ClassMapping((0, 3), "index")


def test_by_order_only_where_the_model_names_nothing() -> None:
    assert class_indices(["a", "b"], None, 2) == ClassMapping((0, 1), "order")
    assert class_indices(["1", "2", "3"], None, 3) == ClassMapping((0, 1, 2), "order")
    with pytest.raises(DataError, match="class folder 'a': the model has no class of that name"):
        class_indices(["a", "b"], ("x", "y"), 2)
    with pytest.raises(
        DataError, match=r"class folder 'e'.*name each folder after its class .a, b, c, d. or its index"
    ):
        class_indices(["b", "c", "d", "e"], ("a", "b", "c", "d"), 4)


def test_names_that_two_classes_share_do_not_count() -> None:
    with pytest.raises(DataError, match="'crane': 2 outputs of the model are called so"):
        class_indices(["crane"], ("crane", "crane", "kite"), 3)
    assert class_indices(["kite"], ("crane", "crane", "kite"), 3).indices == (2,)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["cat", "cow"], "2 class folders, such as 'cat', .* 3 outputs without names"),
        (["0", "3"], "'3', cannot be matched with outputs: the model has outputs 0 to 2"),
        (["0", "1", "5"], "'5', cannot be matched"),
    ],
)
def test_folders_that_are_no_outputs_are_named(folders: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_indices(folders, None, 3)
