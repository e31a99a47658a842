"""Which image serves in which provider: by name and tag, and in nodepool's sense."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Config, ProviderImage, Sharing
from builder.model import Build, ImageRecords, Upload, UploadState, Withholding
from builder.planning.actions import Promotion, Verdict
from builder.planning.promotion import behind, plan_promotions
from builder.planning.records import picked
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    config,
    diskimage,
    doomed,
    held,
    paused,
    provider,
    ready,
    records,
    snapshot,
    upload,
    wish,
)

READY, DELETING, UPLOADING = UploadState.READY, UploadState.DELETING, UploadState.UPLOADING
TODAY, YESTERDAY, BEFORE = ready(3, NOW - HOUR), ready(2, NOW - DAY), ready(1, NOW - 2 * DAY)
BUILDS = (TODAY, YESTERDAY, BEFORE)
CLOUDS = ("north", "south", "west")


def settings(promote: str | int = "each", clouds=CLOUDS, **changes) -> Config:
    image = diskimage(stable_name="debian", promote=promote, **changes)
    return config(image, *(provider(name) for name in clouds))


def there(build: Build, *clouds: str, serving: bool = False, state: UploadState = READY) -> list[Upload]:
    """The build is ready in those providers, since a few minutes after it was; nodepool's launcher takes
    what serves."""
    number = int(build.id[:8], 16)
    since = build.state_time + MINUTE
    sign = {"serving": since, "stable_name": "debian"} if serving else {}
    picked_by = NOW if serving else NOW - 9 * DAY
    return [upload(number, state, picked_by, to, ended=since, **sign) for to in clouds]


def plan(config_: Config, *parts: Build | Upload | list[Upload]) -> dict[str, Promotion]:
    flat = [x for part in parts for x in (part if isinstance(part, list) else [part])]
    return {p.provider: p for p in plan_promotions(config_, snapshot(records(*flat)), NOW)}


def moves(config_: Config, *parts: Build | Upload | list[Upload]) -> dict[str, tuple[str, list[str]]]:
    """Which build gets the name in each provider where it moves, and which lose it."""
    return {
        name: (p.upload.build_id[:8], [u.build_id[:8] for u in p.predecessors])
        for name, p in plan(config_, *parts).items()
        if p.verdict is Verdict.NOW and p.upload
    }


NEW, OLD = "00000003", "00000002"


# -- each, all, some ------------------------------------------------------------------------------


def test_by_default_each_provider_has_the_newest_that_is_ready_there() -> None:
    serving = there(YESTERDAY, *CLOUDS, serving=True)
    parts = (*BUILDS, serving, there(TODAY, "north"))
    assert moves(settings(), *parts) == {"north": (NEW, [OLD])}
    assert plan(settings(), *parts)["north"].reason == (
        "Build 00000003 is the newest ready one in north that may have the stable name debian, and gets it."
    )
    assert plan(settings(), *parts)["south"].reason == (
        "Build 00000002 has the stable name debian in south since 2026-11-20 14:31 UTC."
    )


def test_the_first_image_ever_gets_it_at_once() -> None:
    assert moves(settings(), TODAY, there(TODAY, "north")) == {"north": (NEW, [])}
    promotion = plan(settings(), TODAY, there(TODAY, "north"))["south"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NO, None)
    assert promotion.reason == ("No image of it is ready in south that could have the stable name debian.")


def test_with_all_it_moves_everywhere_once_it_is_everywhere() -> None:
    serving = there(YESTERDAY, *CLOUDS, serving=True)
    two = (*BUILDS, serving, there(TODAY, "north", "south"))
    assert moves(settings("all"), *two) == {}
    waiting = plan(settings("all"), *two)["north"]
    assert waiting.upload is not None and waiting.upload.build_id == YESTERDAY.id
    assert waiting.reason == (
        "Build 00000002 has the stable name debian in north since 2026-11-20 14:31 UTC."
        " Build 00000003 takes over once it is ready in west too (`promote: all`)."
    )
    three = (*BUILDS, serving, there(TODAY, *CLOUDS))
    assert moves(settings("all"), *three) == {name: (NEW, [OLD]) for name in CLOUDS}


def test_with_all_the_first_image_ever_waits_too() -> None:
    parts = (TODAY, there(TODAY, "north", "south"))
    assert moves(settings("all"), *parts) == {}
    assert plan(settings("all"), *parts)["north"].reason == (
        "No image in north has the stable name debian yet."
        " Build 00000003 takes over once it is ready in west too (`promote: all`)."
    )


def test_with_a_number_it_moves_once_so_many_have_it_and_then_where_it_gets_ready() -> None:
    serving = there(YESTERDAY, *CLOUDS, serving=True)
    one = (*BUILDS, serving, there(TODAY, "north"))
    assert moves(settings(2), *one) == {}
    assert plan(settings(2), *one)["north"].reason.endswith(
        "Build 00000003 takes over once 2 providers have it; south and west do not yet (`promote: 2`)."
    )
    two = (*BUILDS, serving, there(TODAY, "north", "south"))
    assert moves(settings(2), *two) == {"north": (NEW, [OLD]), "south": (NEW, [OLD])}
    assert moves(settings(2), *BUILDS, serving, there(TODAY, *CLOUDS)).keys() == set(CLOUDS)


def test_of_more_providers_than_there_are_all_are_enough() -> None:
    assert moves(settings(7), TODAY, there(TODAY, "north", "south")) == {}
    assert moves(settings(7), TODAY, there(TODAY, *CLOUDS)).keys() == set(CLOUDS)


@pytest.mark.parametrize("promote", ["all", 3])
def test_nobody_waits_for_a_provider_that_will_not_get_it(promote: str | int) -> None:
    parts = there(TODAY, "north", "south")
    withheld = replace(TODAY, wishes=(wish(wanted=False, to="west"),))
    assert moves(settings(promote), TODAY, parts) == {}
    assert moves(settings(promote), withheld, parts).keys() == {"north", "south"}
    base = settings(promote)
    paused = replace(base, providers={**base.providers, "west": provider("west", pause=True)})
    assert moves(paused, TODAY, parts).keys() == {"north", "south"}
    assert moves(paused, TODAY, there(TODAY, *CLOUDS)).keys() == set(CLOUDS)


def test_a_provider_of_other_images_is_not_waited_for() -> None:
    base = settings("all", ("north", "south"))
    other = replace(base, providers={**base.providers, "west": provider("west", "something-else")})
    assert moves(other, TODAY, there(TODAY, "north", "south")).keys() == {"north", "south"}


def test_a_provider_that_is_added_takes_nothing_back_and_gets_what_the_others_have() -> None:
    serving = there(TODAY, "north", "south", serving=True)
    assert moves(settings("all"), *BUILDS, serving) == {}
    assert moves(settings("all"), *BUILDS, serving, there(TODAY, "west")) == {"west": (NEW, [])}


def test_what_is_on_its_way_is_not_there() -> None:
    parts = (TODAY, there(TODAY, "north", "south"), there(TODAY, "west", state=UPLOADING))
    assert moves(settings("all"), *parts) == {}


# -- halfway, and back ----------------------------------------------------------------------------


def test_what_was_to_get_the_name_and_was_overtaken_loses_it() -> None:
    """Its record had the name first, and a daemon died before, or after, its image had it as well."""
    serving = there(TODAY, "north", serving=True)
    half = [replace(upload, stable_name="debian") for upload in there(YESTERDAY, "north")]
    promotion = plan(settings(clouds=("north",)), *BUILDS, serving, half)["north"]
    assert (promotion.verdict, promotion.upload, promotion.predecessors) == (
        Verdict.NOW,
        serving[0],
        tuple(half),
    )
    assert "build 00000002 still has it too, and loses it" in promotion.reason


def test_a_move_that_was_cut_short_is_finished() -> None:
    both = (*BUILDS, there(YESTERDAY, "north", serving=True), there(TODAY, "north", serving=True))
    assert moves(settings(), *both) == {"north": (NEW, [OLD])}
    assert plan(settings(), *both)["north"].reason == (
        "Build 00000003 has the stable name debian in north; build 00000002 still has it too, and loses it."
    )


def test_the_newest_build_counts_not_the_last_upload() -> None:
    """Yesterday's upload took until now."""
    late = [replace(u, state_time=NOW, ended=NOW) for u in there(YESTERDAY, "north")]
    assert moves(settings(), *BUILDS, there(TODAY, "north"), late) == {"north": (NEW, [])}


@pytest.mark.parametrize("promote", ["each", "all", 2])
def test_when_it_is_to_go_the_one_before_takes_over_at_once(promote: str | int) -> None:
    leaving = there(TODAY, "north", serving=True, state=DELETING)
    elsewhere = there(TODAY, "south", "west", serving=True)
    parts = (*BUILDS, leaving, elsewhere, there(YESTERDAY, "north"))
    assert moves(settings(promote), *parts) == {"north": (OLD, [NEW])}
    assert plan(settings(promote), *parts)["north"].reason == (
        "Build 00000002 takes the stable name debian in north back: build 00000003 is to go."
    )


@pytest.mark.parametrize("promote", ["each", "all", 2])
def test_when_its_build_is_to_go_all_providers_go_back(promote: str | int) -> None:
    parts = (doomed(TODAY), YESTERDAY, there(TODAY, *CLOUDS, serving=True), there(YESTERDAY, *CLOUDS))
    assert moves(settings(promote), *parts) == {name: (OLD, [NEW]) for name in CLOUDS}


@pytest.mark.parametrize("promote", ["all", 2])
def test_it_goes_back_to_one_that_had_its_time_rather_than_on_to_one_that_waits(promote: str | int) -> None:
    leaving = there(YESTERDAY, "north", serving=True, state=DELETING)
    parts = (*BUILDS, leaving, there(BEFORE, "north"), there(TODAY, "north"))
    assert moves(settings(promote), *parts) == {"north": ("00000001", [OLD])}


def test_a_build_is_as_old_as_when_it_began_also_when_it_is_to_go() -> None:
    """Else what was told to go last would count as the newest."""
    parts = (TODAY, doomed(YESTERDAY), BEFORE, there(YESTERDAY, "north", serving=True))
    assert moves(settings("all"), *parts, there(BEFORE, "north"), there(TODAY, "north")) == {
        "north": ("00000001", [OLD])
    }


def test_better_one_that_others_do_not_have_than_none() -> None:
    leaving = there(YESTERDAY, "north", serving=True, state=DELETING)
    assert moves(settings("all"), *BUILDS, leaving, there(TODAY, "north")) == {"north": (NEW, [OLD])}


@pytest.mark.parametrize("promote", ["each", "all", 2])
def test_what_nodepool_told_to_go_forgot_that_it_serves(promote: str | int) -> None:
    """Its removal waits for an heir, so there must be one."""
    leaving = there(TODAY, "north", state=DELETING)
    parts = (*BUILDS, leaving, there(YESTERDAY, "north"))
    assert moves(settings(promote), *parts) == {"north": (OLD, [])}


def test_when_it_is_gone_from_a_provider_another_one_takes_over() -> None:
    elsewhere = there(TODAY, "south", "west", serving=True)
    assert moves(settings("all"), *BUILDS, elsewhere, there(YESTERDAY, "north")) == {"north": (OLD, [])}


def test_when_nothing_is_left_there_is_nobody_to_take_over() -> None:
    promotion = plan(settings(), TODAY, there(TODAY, "north", serving=True, state=DELETING))["north"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NO, None)


# -- whose business it is -------------------------------------------------------------------------


def test_a_tag_moves_as_a_name_does() -> None:
    tagged = config(diskimage(stable_tag="in-service"), provider())
    promotion = plan(tagged, TODAY, there(TODAY, "north"))["north"]
    assert promotion.verdict is Verdict.NOW
    assert "the stable tag in-service" in promotion.reason


def test_an_image_that_left_the_configuration_keeps_its_name_as_it_is() -> None:
    known: ImageRecords = records(TODAY, *there(TODAY, "north"), name="left")
    assert plan_promotions(settings(), snapshot(known), NOW) != ()
    assert all(
        p.image == IMAGE and p.upload is None for p in plan_promotions(settings(), snapshot(known), NOW)
    )


# -- another name or tag --------------------------------------------------------------------------


def named(build: Build, name: str | None, tag: str | None = None, **changes) -> Upload:
    """The build serves in north, and its record says by what."""
    (one,) = there(build, "north", serving=True)
    return replace(one, stable_name=name, stable_tag=tag, **changes)


NORTH = ("north",)


@pytest.mark.parametrize(
    ("name", "tag", "said"),
    [
        ("before", None, "instead of the stable name before"),
        ("debian", "current", "instead of the stable name debian and stable tag current"),
        (None, "current", "instead of the stable tag current"),
        (None, None, "as far as it has not: its record does not say"),
    ],
)
def test_what_serves_by_another_name_or_tag_gets_the_new_one_now(
    name: str | None, tag: str | None, said: str
) -> None:
    promotion = plan(settings(clouds=NORTH), TODAY, named(TODAY, name, tag))["north"]
    assert promotion.verdict is Verdict.NOW and promotion.upload is not None
    assert (promotion.upload.build_id, promotion.predecessors) == (TODAY.id, ())
    assert promotion.reason.startswith(
        "Build 00000003 is in service in north, and gets the stable name debian"
    )
    assert promotion.reason.endswith(f"{said}.")


def test_what_serves_by_the_name_and_tag_of_its_diskimage_stays() -> None:
    both = settings(clouds=NORTH, stable_tag="current")
    assert plan(both, TODAY, named(TODAY, "debian", "current"))["north"].verdict is Verdict.NO
    assert plan(both, TODAY, named(TODAY, "debian"))["north"].verdict is Verdict.NOW


def test_a_new_name_does_not_wait_for_a_build_that_waits_for_others() -> None:
    parts = (*BUILDS, named(YESTERDAY, "before"), there(TODAY, "north"))
    assert moves(settings("all"), *parts) == {"north": (OLD, [])}


def test_daemons_that_disagree_do_not_rename_in_turns_as_fast_as_they_can() -> None:
    fresh = named(TODAY, "before", serving=NOW - MINUTE / 2)
    promotion = plan(settings(clouds=NORTH), TODAY, fresh)["north"]
    assert (promotion.verdict, promotion.due) == (Verdict.LATER, NOW + MINUTE / 2)
    farewell = plan(config(diskimage(), provider()), TODAY, fresh)["north"]
    assert (farewell.verdict, farewell.due) == (Verdict.LATER, NOW + MINUTE / 2)
    # A new build that takes over waits for nothing.
    assert moves(settings(clouds=NORTH), *BUILDS, named(YESTERDAY, "x", serving=NOW), there(TODAY, "north"))


def test_what_is_configured_no_more_is_taken_back_from_what_goes_on_serving() -> None:
    plain = config(diskimage(), provider("north"), provider("south"))
    served = named(TODAY, "before", "current")
    promotion = plan(plain, TODAY, served, there(TODAY, "south"))["north"]
    assert (promotion.verdict, promotion.upload, promotion.predecessors) == (Verdict.NOW, served, ())
    assert promotion.reason == (
        "Build 00000003 in north loses the stable name before and stable tag current: none is configured."
    )


# -- in nodepool's sense --------------------------------------------------------------------------

PLAIN = config(diskimage(), provider("north"))


def taken(*parts: Upload | list[Upload]) -> Upload | None:
    """What nodepool's launcher takes in north."""
    return picked(x for part in parts for x in (part if isinstance(part, list) else [part]))


def test_without_name_and_tag_it_serves_what_nodepool_takes() -> None:
    fresh = there(TODAY, "north")
    serving = there(YESTERDAY, "north", serving=True)
    promotion = plan(PLAIN, *BUILDS, serving, fresh)["north"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NOW, fresh[0])
    assert promotion.predecessors == tuple(serving)
    assert promotion.renewed is not None and promotion.renewed > serving[0].state_time
    assert promotion.reason == (
        "Build 00000003 is the newest ready one in north that may serve, and goes into service."
    )
    served = replace(fresh[0].renewed(promotion.renewed), serving=NOW)
    before = replace(serving[0], serving=None, stable_name=None)
    assert taken(served, before) == served
    done = plan(PLAIN, *BUILDS, before, served)["north"]
    assert (done.verdict, done.reason) == (
        Verdict.NO,
        "Build 00000003 is in service in north since 2026-11-21 14:30 UTC.",
    )


def test_what_nodepool_takes_instead_is_put_right() -> None:
    """A nodepool-builder beside us, or somebody by hand, made another one the newest."""
    serving = there(TODAY, "north", serving=True)
    ahead = [replace(u, state_time=NOW + HOUR) for u in there(YESTERDAY, "north")]
    promotion = plan(settings(clouds=NORTH), *BUILDS, serving, ahead)["north"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NOW, serving[0])
    assert promotion.renewed is not None and promotion.renewed > ahead[0].state_time
    assert promotion.reason == (
        "Build 00000003 is in service in north, but nodepool's launcher would take another one."
    )


def test_what_becomes_ready_waits_behind_what_serves() -> None:
    serving = there(YESTERDAY, "north", serving=True)
    known = records(*BUILDS, *serving)
    (comes,) = there(TODAY, "north")
    assert taken(serving, replace(comes, state_time=behind(known, comes, NOW))) == serving[0]
    assert behind(known, there(TODAY, "south")[0], NOW) == NOW
    # By a clock that is behind, too.
    assert behind(known, comes, NOW - 9 * DAY) == NOW - 9 * DAY


def test_what_becomes_ready_waits_behind_what_serves_when_that_goes() -> None:
    """Whoever deletes what serves with nodepool's own command leaves no moment to the promoter."""
    (serves,), (before,) = there(YESTERDAY, "north", serving=True), there(BEFORE, "north")
    (comes,) = there(TODAY, "north")
    waits = replace(comes, state_time=behind(records(*BUILDS, serves, before), comes, NOW))
    assert taken([serves, before, waits]) == serves
    assert taken([before, waits]) == before
    # What is withheld is no better than that.
    bad = records(TODAY, YESTERDAY, held(BEFORE), serves, before)
    assert taken([before, replace(comes, state_time=behind(bad, comes, NOW))]) != before
    # Unless it is so itself, by a word that came while its last bytes were sent.
    late = records(held(TODAY), YESTERDAY, held(BEFORE), serves, before)
    assert taken([before, replace(comes, state_time=behind(late, comes, NOW))]) == before


@pytest.mark.parametrize("promote", ["all", 2])
def test_without_name_and_tag_a_build_waits_for_others_as_well(promote: str | int) -> None:
    plain = config(diskimage(promote=promote), *(provider(name) for name in ("north", "south")))
    serving = there(YESTERDAY, "north", "south", serving=True)
    parts = (*BUILDS, [replace(u, stable_name=None) for u in serving], there(TODAY, "north"))
    assert moves(plain, *parts) == {}
    assert moves(plain, *parts, there(TODAY, "south")).keys() == {"north", "south"}


# -- what is withheld -----------------------------------------------------------------------------

SERVING = there(TODAY, *CLOUDS, serving=True)
EARLIER = there(YESTERDAY, *CLOUDS)
BAD = "build 00000003 was put in quarantine by ann at 2026-11-21 14:29 UTC: it does not boot"


@pytest.mark.parametrize("promote", ["each", "all", 2])
def test_what_is_put_in_quarantine_hands_over_everywhere(promote: str | int) -> None:
    parts = (held(TODAY), YESTERDAY, SERVING, EARLIER)
    assert moves(settings(promote), *parts) == {name: (OLD, [NEW]) for name in CLOUDS}
    promotion = plan(settings(promote), *parts)["north"]
    assert promotion.reason == f"Build 00000002 takes the stable name debian in north back: {BAD}."
    assert promotion.by == "ann"
    assert promotion.renewed is not None and promotion.renewed > SERVING[0].state_time


def test_what_is_withheld_from_one_provider_goes_on_in_the_others() -> None:
    parts = (held(TODAY, "south"), YESTERDAY, SERVING, EARLIER)
    assert moves(settings(), *parts) == {"south": (OLD, [NEW])}
    assert "was withheld from south by ann" in plan(settings(), *parts)["south"].reason


def test_a_build_that_is_withheld_there_is_not_waited_for() -> None:
    serving = there(YESTERDAY, *CLOUDS, serving=True)
    two = (serving, there(TODAY, "north", "west"))
    assert moves(settings("all"), TODAY, YESTERDAY, *two) == {}
    moved = moves(settings("all"), held(TODAY, "south"), YESTERDAY, *two)
    assert moved == {"north": (NEW, [OLD]), "west": (NEW, [OLD])}


def test_it_does_not_come_back_and_says_why() -> None:
    back = there(YESTERDAY, "north", serving=True)
    promotion = plan(settings(clouds=NORTH), held(TODAY), YESTERDAY, back, there(TODAY, "north"))["north"]
    assert promotion.verdict is Verdict.NO
    assert promotion.reason == (
        f"Build 00000002 has the stable name debian in north since 2026-11-20 14:31 UTC. The newer {BAD}."
    )


def test_it_comes_back_once_that_is_taken_back() -> None:
    back = there(YESTERDAY, *CLOUDS, serving=True)
    released = held(TODAY).released(None)
    assert moves(settings("all"), released, YESTERDAY, back, there(TODAY, *CLOUDS)) == {
        name: (NEW, [OLD]) for name in CLOUDS
    }


def test_a_provider_that_has_nothing_else_goes_on_and_says_so() -> None:
    promotion = plan(settings(clouds=NORTH), held(TODAY), there(TODAY, "north", serving=True))["north"]
    assert promotion.verdict is Verdict.NO
    assert promotion.reason == (
        "Build 00000003 has the stable name debian in north since 2026-11-21 13:31 UTC,"
        f" for nothing else is ready there: {BAD}."
    )


def test_of_two_that_are_withheld_that_which_serves_goes_on() -> None:
    both = (held(TODAY), held(YESTERDAY))
    assert moves(settings(), *both, SERVING, EARLIER) == {}
    gone = there(TODAY, "north", serving=True, state=DELETING)
    assert moves(settings(clouds=NORTH), *both, gone, there(YESTERDAY, "north")) == {"north": (OLD, [NEW])}


def test_what_is_withheld_before_it_ever_served_does_not_begin() -> None:
    promotion = plan(settings(clouds=NORTH), held(TODAY), there(TODAY, "north"))["north"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NO, None)
    assert promotion.reason == (
        "No image in north has the stable name debian yet. Nothing else is ready there:"
        " build 00000003 was put in quarantine by ann at 2026-11-21 14:29 UTC: it does not boot."
    )


def test_a_newer_build_that_waits_for_others_is_better_than_what_is_withheld() -> None:
    serving = there(YESTERDAY, "north", serving=True)
    parts = (TODAY, held(YESTERDAY), serving, there(TODAY, "north"))
    assert moves(settings("all"), *parts) == {"north": (NEW, [OLD])}


def test_a_freeze_stops_all_but_what_somebody_said() -> None:
    frozen = {"frozen": paused()}
    # Also when the machine's user, who is called as we are, typed it.
    for by in ("ann", "imagepool"):
        bad = TODAY.withhold(Withholding(provider=None, by=by, time=NOW))
        known = records(bad, YESTERDAY, *SERVING, *EARLIER)
        moving = plan_promotions(settings(), snapshot(known, **frozen), NOW)
        assert {(p.verdict, p.by) for p in moving} == {(Verdict.NOW, by)}
    by_itself = records(TODAY, YESTERDAY, *there(YESTERDAY, *CLOUDS, serving=True), *there(TODAY, *CLOUDS))
    stopped = plan_promotions(settings(), snapshot(by_itself, **frozen), NOW)
    assert {p.verdict for p in stopped} == {Verdict.NO}
    assert stopped[0].reason.endswith("`imagepool unfreeze` lets it go on.")


def test_in_nodepools_sense_the_rollback_is_the_same() -> None:
    plain = config(diskimage(), provider("north"))
    serving = [replace(u, stable_name=None) for u in there(TODAY, "north", serving=True)]
    promotion = plan(plain, held(TODAY), YESTERDAY, serving, there(YESTERDAY, "north"))["north"]
    assert (promotion.verdict, promotion.upload) == (Verdict.NOW, there(YESTERDAY, "north")[0])
    assert promotion.reason == f"Build 00000002 is in service in north again: {BAD}."


# -- hidden ---------------------------------------------------------------------------------------

HIDING = settings(clouds=NORTH, hide_old=True)


def hidden(*parts: Build | Upload | list[Upload], config_: Config = HIDING) -> list[str]:
    promotion = plan(config_, *parts)["north"]
    assert (promotion.verdict is Verdict.NOW) is bool(promotion.hide or promotion.show)
    return [u.build_id[:8] for u in promotion.hide]


def test_what_serves_no_more_is_hidden() -> None:
    serving = there(TODAY, "north", serving=True)
    parts = (*BUILDS, serving, there(YESTERDAY, "north"), there(BEFORE, "north"))
    assert hidden(*parts) == [OLD, "00000001"]
    assert hidden(*parts, config_=settings(clouds=NORTH)) == []
    assert plan(HIDING, *parts)["north"].reason == (
        "Build 00000003 is in service in north, and builds 00000001 and 00000002 are hidden (`hide-old`)."
    )
    done = [replace(u, hidden=True) for u in (*there(YESTERDAY, "north"), *there(BEFORE, "north"))]
    assert hidden(*BUILDS, serving, done) == []


def test_what_waits_for_others_is_not_hidden_but_what_is_withheld_is() -> None:
    image = settings("all", clouds=("north", "south"), hide_old=True)
    parts = (YESTERDAY, there(YESTERDAY, "north", "south", serving=True), there(TODAY, "north"))
    assert hidden(TODAY, *parts, config_=image) == []
    assert hidden(held(TODAY), *parts, config_=image) == [NEW]


def test_what_serves_again_is_shown_again() -> None:
    old = [replace(u, hidden=True) for u in there(YESTERDAY, "north")]
    promotion = plan(HIDING, held(TODAY), YESTERDAY, there(TODAY, "north", serving=True), old)["north"]
    assert promotion.show and [u.build_id for u in promotion.hide] == [TODAY.id]


def test_where_images_are_hidden_anyway_nothing_is_hidden_or_shown() -> None:
    listed = ProviderImage(diskimage=IMAGE, sharing=Sharing(hidden=True))
    closed = replace(HIDING, providers={"north": replace(provider("north"), images={IMAGE: listed})})
    serving = [replace(u, hidden=True) for u in there(TODAY, "north", serving=True)]
    assert hidden(*BUILDS, serving, there(YESTERDAY, "north"), config_=closed) == []
