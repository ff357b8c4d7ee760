"""Tags of releases, and what a release still lacks."""

import datetime as dt
from pathlib import Path

import pytest
from fixtures_release import TAG
from fixtures_stores import NAME
from hypothesis import given, settings
from hypothesis import strategies as st
from releasing import ARCHIVE

from registry.errors import ConflictError, MregError
from registry.manifest import MANIFEST_NAME
from registry.release_plan import LocalAsset, make_plan, next_free_tag, require_tag
from registry.stores import Asset, Release


@settings(max_examples=100, deadline=None)
@given(st.dates(dt.date(2010, 1, 1), dt.date(2098, 1, 1)), st.sets(st.integers(0, 5)))
def test_the_next_free_date_is_later_and_free(day, offsets):
    taken = {f"r{day + dt.timedelta(days=n):%Y%m%d}" for n in offsets}
    free = next_free_tag(f"r{day:%Y%m%d}", taken)
    assert free not in taken
    assert free > f"r{day:%Y%m%d}"
    require_tag(free, "date")


def test_versions_are_tags_where_the_repo_says_so():
    assert next_free_tag("v1.2.3", ["v1.2.4"]) == "v1.2.5"
    require_tag("v1.2.3", "semver")
    with pytest.raises(MregError, match="a version"):
        require_tag(TAG, "semver")
    with pytest.raises(MregError, match="not a calendar date"):
        require_tag("r20260230", "date")
    with pytest.raises(MregError, match="a release tag is"):
        require_tag("v1.0.0", "date")


SHA = st.sampled_from(["a" * 64, "b" * 64, ""])
ASSETS = st.lists(
    st.builds(
        Asset,
        id=st.just("1"),
        name=st.sampled_from([ARCHIVE, MANIFEST_NAME, "figure.png"]),
        size=st.just(5),
        sha256=SHA,
        url=st.just(""),
        uploaded=st.booleans(),
    ),
    unique_by=lambda a: a.name,
)
STATES = st.lists(
    st.builds(
        Release,
        id=st.integers(1, 99).map(str),
        repo=st.just(NAME),
        tag=st.sampled_from([TAG, "r20260202", "r20251231"]),
        title=st.just(""),
        notes=st.just(""),
        draft=st.just(True) | st.booleans(),
        commit=st.sampled_from(["", "c1", "c2"]),
        assets=ASSETS.map(tuple),
    ),
    max_size=4,
    unique_by=lambda r: r.id,
)


@settings(max_examples=300, deadline=None)
@given(STATES)
def test_a_plan_once_carried_out_leaves_nothing_to_do(found):
    wanted = [LocalAsset(path=Path(name), size=5, sha256="a" * 64) for name in (ARCHIVE, MANIFEST_NAME)]
    public = [r for r in found if r.tag == TAG and not r.draft]
    try:
        plan = make_plan(TAG, "c1", wanted, found)
    except ConflictError:
        assert public
        assert any(not local.equals(public[0].asset(local.name)) for local in wanted)
        return
    if plan.published:
        assert plan.published in public
        return
    kept = [a for a in (plan.draft.assets if plan.draft else ()) if a not in plan.broken]
    sent = [Asset(id="9", name=f.name, size=f.size, sha256=f.sha256, url="") for f in plan.missing]
    draft = Release(
        id=plan.draft.id if plan.draft else "100",
        repo=NAME,
        tag=TAG,
        title="",
        notes="",
        draft=True,
        commit="c1",
        assets=(*kept, *sent),
    )
    rest = [r for r in found if r not in plan.surplus and r is not plan.draft]
    again = make_plan(TAG, "c1", wanted, [*rest, draft])
    assert (again.draft, again.surplus, again.broken, again.missing) == (draft, (), (), ())
    public_now = Release(**{**vars(draft), "draft": False})
    assert make_plan(TAG, "c1", wanted, [*rest, public_now]).published == public_now
