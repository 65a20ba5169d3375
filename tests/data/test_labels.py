import pytest

from autoq.data import class_indices
from autoq.errors import DataError


def test_by_name_without_regard_to_case():
    assert class_indices(["Dog", "cat"], ("cat", "bird", "dog"), 3) == (2, 0)


def test_by_position_where_names_say_nothing():
    assert class_indices(["a", "b"], None, 2) == (0, 1)
    assert class_indices(["a", "b"], ("x", "y"), 2) == (0, 1)


def test_names_that_two_classes_share_do_not_count():
    with pytest.raises(DataError, match="'crane'"):
        class_indices(["crane"], ("crane", "crane", "kite"), 3)
    assert class_indices(["kite"], ("crane", "crane", "kite"), 3) == (2,)


@pytest.mark.parametrize(("label_names", "reason"), [(None, "does not name"), (("cat", "dog", "eel"), "'cow'")])
def test_counts_that_differ_are_explained(label_names, reason):
    with pytest.raises(DataError, match=r"2 class folders .* 3 classes") as raised:
        class_indices(["cat", "cow"], label_names, 3)
    assert reason in str(raised.value)
