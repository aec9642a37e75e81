"""Groups of about one size."""

from yxanul.data.grouping import grouped


def test_groups_end_before_they_are_too_large():
    groups = list(grouped(["aa", "b", "", "cccc", "d"], len, limit=3))
    assert groups == [["aa", "b", ""], ["cccc"], ["d"]] and list(grouped([], len)) == []
