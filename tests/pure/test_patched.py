"""A mapping made from another one knows where it differs, and is wrong about no two mappings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnet.model.patched import STEPS, Patched, may_differ, may_lack

mappings = st.dictionaries(st.integers(0, 9), st.integers(0, 3))
changes = st.dictionaries(st.integers(0, 9), st.none() | st.integers(0, 3))


def difference(after: dict[int, int], before: dict[int, int]) -> dict[int, int | None]:
    """Return what turns `before` into `after`, found only where the two may differ."""
    found: dict[int, int | None] = {
        key: after[key] for key in may_differ(after, before) if before.get(key) != after[key]
    }
    return found | {key: None for key in may_lack(after, before) if key not in after}


@given(mappings, st.lists(changes, max_size=4), st.data())
def test_the_difference_of_any_two_versions_leads_from_one_to_the_other(
    first: dict[int, int], steps: list[dict[int, int | None]], data: st.DataObject
) -> None:
    versions: list[dict[int, int]] = [first, Patched(first, {})]
    for step in steps:
        versions.append(Patched(data.draw(st.sampled_from(versions)), step))
    before, after = (data.draw(st.sampled_from(versions)) for _ in range(2))

    assert Patched(before, difference(after, before)) == after


def test_only_the_keys_of_the_steps_between_two_are_looked_at() -> None:
    before = Patched({}, dict.fromkeys(range(100), "as it was"))
    after = Patched(before, {1: "new", 2: None, 200: "more"})
    beside = Patched(Patched(before, {3: "other"}), {4: None})

    assert sorted(may_differ(after, before)) == [1, 200]
    assert sorted(may_lack(after, before)) == [1, 2]
    assert sorted(may_differ(after, beside)) == [1, 3, 4, 200]
    assert sorted(may_lack(beside, after)) == [1, 3, 4, 200]


def test_what_was_long_ago_is_compared_as_a_whole() -> None:
    before = Patched({}, dict.fromkeys(range(100), "as it was"))
    after = before
    for number in range(STEPS):
        after = Patched(after, {number: "new"})
    assert len(may_differ(after, before)) == STEPS
    assert len(may_differ(Patched(after, {}), before)) == 100


def test_a_mapping_does_not_differ_from_itself() -> None:
    before = {1: "one"}
    assert not may_differ(before, before)
    assert not may_lack(before, before)
