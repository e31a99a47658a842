"""When a provider gets no uploads for a while, and which single one tries it afterwards."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from builder.config.model import Config
from builder.model import FailureClass, ImageRecords, Snapshot, Upload, UploadPhase, UploadState
from builder.planning.actions import Breaker, BreakerState, UploadDecision, Verdict
from builder.planning.breakers import breakers
from builder.planning.retry import backoff
from builder.planning.uploads import decide_uploads
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    MINUTE,
    NOW,
    breaker_of,
    building,
    claimable,
    config,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
    wish,
)

AUTH, QUOTA, NETWORK, TIMEOUT, CONFIG, CLOUD, INTERRUPTED, CANCELLED, UNKNOWN = (
    FailureClass.AUTH,
    FailureClass.QUOTA,
    FailureClass.NETWORK,
    FailureClass.TIMEOUT,
    FailureClass.CONFIG,
    FailureClass.CLOUD,
    FailureClass.INTERRUPTED,
    FailureClass.CANCELLED,
    FailureClass.UNKNOWN,
)
PREFLIGHT, CREATE, SEND, VERIFY, HOOK = (
    UploadPhase.PREFLIGHT,
    UploadPhase.CREATE,
    UploadPhase.SEND,
    UploadPhase.VERIFY,
    UploadPhase.HOOK,
)
SETTINGS = config(diskimage(), provider())
POLICY = SETTINGS.upload_breaker


def failed(
    number: int, ago: timedelta, kind: FailureClass = QUOTA, during: UploadPhase = CREATE, **changes
) -> Upload:
    return upload(1, UploadState.FAILED, NOW - ago, kind=kind, during=during, id=f"{number:010}", **changes)


def judged(*uploads: Upload, now: datetime = NOW, **changes) -> Breaker:
    known = records(ready(1, NOW - DAY, **changes), *uploads)
    return breaker_of("north", snapshot(known), POLICY, now)


def three(kind: FailureClass = QUOTA, during: UploadPhase = CREATE) -> list[Upload]:
    return [failed(n, n * MINUTE, kind, during) for n in (1, 2, 3)]


def wait(nth: int, last: Upload) -> timedelta:
    return backoff(POLICY.first, POLICY.longest, nth, last.name)


# -- what makes the row ---------------------------------------------------------------------------


def test_uploads_go_where_none_failed() -> None:
    assert judged() == Breaker(provider="north", state=BreakerState.CLOSED, reason="Uploads go to north.")


def test_it_opens_with_the_third_failure_in_a_row() -> None:
    two, all_three = three()[:2], three()
    assert judged(*two).state is BreakerState.CLOSED
    assert judged(*two).reason == (
        "2 uploads in a row to north failed, last: quota: it broke (phase create)."
        " After 3 in a row none would be begun for a while."
    )
    opened = judged(*all_three)
    until = NOW - MINUTE + wait(1, all_three[0])
    assert opened == Breaker(
        provider="north",
        state=BreakerState.OPEN,
        failures=3,
        since=NOW - MINUTE,
        until=until,
        reason="3 uploads in a row to north failed, last: quota: it broke (phase create)."
        f" Nothing is sent there before {until:%Y-%m-%d %H:%M} UTC, and then a single upload.",
    )


@pytest.mark.parametrize(
    ("kind", "during"),
    [
        *((kind, phase) for kind in (AUTH, QUOTA, CONFIG) for phase in (PREFLIGHT, CREATE, SEND, VERIFY)),
        *((kind, phase) for kind in (NETWORK, TIMEOUT) for phase in (PREFLIGHT, CREATE)),
    ],
)
def test_what_trying_again_does_not_mend_soon_counts(kind: FailureClass, during: UploadPhase) -> None:
    assert judged(*three(kind, during)).state is BreakerState.OPEN


@pytest.mark.parametrize(
    ("kind", "during"),
    [
        (NETWORK, SEND),  # the line is bad, but there is one
        (TIMEOUT, SEND),
        (TIMEOUT, UploadPhase.WAIT),
        (CLOUD, CREATE),
        (CLOUD, VERIFY),
        (UNKNOWN, PREFLIGHT),
        (INTERRUPTED, CREATE),
        (CANCELLED, CREATE),
    ],
)
def test_what_is_an_images_own_trouble_does_not(kind: FailureClass, during: UploadPhase) -> None:
    assert judged(*three(kind, during)).failures == 0


@pytest.mark.parametrize(
    ("kind", "during"),
    [
        (INTERRUPTED, SEND),
        (CANCELLED, SEND),
        (NETWORK, SEND),
        (TIMEOUT, SEND),
        (UNKNOWN, PREFLIGHT),
        (CLOUD, CREATE),
    ],
)
def test_what_says_nothing_neither_counts_nor_ends_the_row(kind: FailureClass, during: UploadPhase) -> None:
    between = failed(9, 90 * timedelta(seconds=1), kind, during)
    assert judged(*three(), between) == judged(*three())


@pytest.mark.parametrize("during", [SEND, VERIFY, HOOK])
def test_a_wrong_image_shows_that_the_provider_takes_some(during: UploadPhase) -> None:
    assert judged(*three(), failed(9, timedelta(), CLOUD, during)).failures == 0
    before = failed(9, 2.5 * MINUTE, CLOUD, during)
    assert judged(*three(), before).failures == 2


@pytest.mark.parametrize("state", [UploadState.READY, UploadState.DELETING])
def test_one_that_became_ready_ends_the_row(state: UploadState) -> None:
    """Also when it is to go since, and whatever came before or after."""
    good = upload(1, state, NOW, id="0000000009", external_id="abc", ended=NOW - 2.5 * MINUTE)
    assert judged(*three(), good).failures == 2
    assert judged(*three(), replace(good, ended=NOW)).failures == 0


def test_a_failed_one_that_is_to_go_ends_nothing() -> None:
    going = failed(9, timedelta(), CLOUD, VERIFY, ended=NOW, phase="verify", external_id="abc")
    assert judged(*three(), replace(going, state=UploadState.DELETING)).failures == 3


def test_a_wish_for_an_upload_there_closes_it() -> None:
    row = three()
    assert judged(*row, wishes=(wish(NOW, wanted=True),)).state is BreakerState.CLOSED
    assert judged(*row, wishes=(wish(NOW - 2.5 * MINUTE, wanted=True),)).failures == 2
    assert judged(*row, wishes=(wish(NOW, wanted=True, to="south"),)).failures == 3
    assert judged(*row, wishes=(wish(NOW, wanted=False),)).failures == 3


def test_failures_of_all_images_count_and_those_of_other_providers_do_not() -> None:
    each = [
        records(replace(failed(n, n * MINUTE), image=name), name=name)
        for n, name in ((1, "a"), (2, "b"), (3, "c"))
    ]
    assert breaker_of("north", snapshot(*each), POLICY, NOW).state is BreakerState.OPEN
    assert breaker_of("south", snapshot(*each), POLICY, NOW).failures == 0
    both = config(diskimage(), provider("north"), provider("south"))
    assert {name: b.state for name, b in breakers(both, snapshot(*each), NOW).items()} == {
        "north": BreakerState.OPEN,
        "south": BreakerState.CLOSED,
    }


def test_records_of_nodepool_say_nothing() -> None:
    assert judged(*(replace(u, reason=None) for u in three())).failures == 0


# -- how long it stays open -----------------------------------------------------------------------


def test_what_was_under_way_when_the_breaker_opened_is_no_try() -> None:
    opening = [failed(n, (5 + n) * MINUTE) for n in (1, 2, 3)]
    burst = [failed(n, 5 * MINUTE) for n in range(4, 10)]
    assert judged(*opening, *burst).until == NOW - 5 * MINUTE + wait(1, burst[-1])


def test_each_failed_try_doubles_the_wait_up_to_the_longest() -> None:
    row = [failed(n, n * HOUR) for n in range(1, 10)]
    waits = [judged(*row[-n:]).until - row[-n].state_time for n in range(3, 10)]  # type: ignore[operator]
    assert waits == [wait(n, row[-n - 2]) for n in range(1, 8)]
    assert [w // (10 * MINUTE) for w in waits[:2]] == [1, 2]
    assert all(POLICY.longest <= w <= 1.25 * POLICY.longest for w in waits[3:])


def test_afterwards_it_is_half_open_until_something_becomes_of_the_try() -> None:
    row = three()
    until = NOW - MINUTE + wait(1, row[0])
    assert judged(*row, now=until - timedelta(microseconds=1)).state is BreakerState.OPEN
    for later in (until, until + DAY):
        half_open = judged(*row, now=later)
        assert half_open.state is BreakerState.HALF_OPEN
        assert half_open.until == until
        assert half_open.probe is None
    again = failed(9, -HOUR)  # the try failed: it is open again, and longer
    assert judged(*row, again, now=NOW + HOUR).state is BreakerState.OPEN
    assert judged(*row, again, now=NOW + HOUR).until == NOW + HOUR + wait(2, again)


# -- the single try -------------------------------------------------------------------------------

IMAGES = ("a", "b", "c")
#: Since three hours all uploads fail: each image was tried once, "a" last.
TRIED = {"a": 3 * HOUR, "b": 4 * HOUR, "c": 5 * HOUR}


def image(name: str, *uploads: Upload, builder: str = HERE, **changes) -> ImageRecords:
    build = ready(1, NOW - DAY, image=name, builder_id=builder)
    return records(build, *(replace(u, image=name) for u in uploads), name=name, **changes)


def world(**builders: str) -> Snapshot:
    """Three images in trouble, whose files are on this machine unless it's said otherwise."""
    return snapshot(
        *(image(name, failed(1, TRIED[name]), builder=builders.get(name, HERE)) for name in IMAGES)
    )


def settings(*providers: str) -> Config:
    names = providers or ("north",)
    return config(*(diskimage(name) for name in IMAGES), *(provider(name, *IMAGES) for name in names))


def decisions(known: Snapshot, now: datetime = NOW) -> dict[str, UploadDecision]:
    return {d.image: d for d in decide_uploads(settings(), known, now)}


def turns(now: datetime, known: Snapshot) -> dict[str, Verdict]:
    return {name: decision.verdict for name, decision in decisions(known, now).items()}


def test_while_it_is_open_all_wait_for_it() -> None:
    until = breaker_of("north", world(), POLICY, NOW).until
    assert until is not None
    for decision in decisions(world(), until - MINUTE).values():
        assert decision.verdict is Verdict.LATER
        assert decision.due == until
        assert "3 uploads in a row to north failed, last: quota: it broke (phase create)." in decision.reason
        assert "Nothing is sent there before" in decision.reason


def test_one_is_tried_the_one_whose_last_try_was_longest_ago() -> None:
    found = decisions(world())
    assert [name for name, d in found.items() if d.verdict is Verdict.NOW and d.probe] == ["c"]
    assert found["c"].due == breaker_of("north", world(), POLICY, NOW).until
    assert found["c"].reason.endswith("one at a time is tried. This one is due to be it.")
    for name in ("a", "b"):
        assert found[name].verdict is Verdict.NO
        assert not found[name].probe
        assert found[name].reason.endswith(
            "That is c of build 00000001; this upload waits for what becomes of it."
        )
    order = claimable(decide_uploads(settings(), world(), NOW), HERE)
    assert [d.image for d in order] == ["c"]


def test_an_image_that_always_fails_keeps_none_of_the_others_from_being_tried() -> None:
    """Only "c" is too large for the quota: the next try is another's."""
    fails_again = image("c", failed(1, 5 * HOUR), failed(2, 2 * HOUR))
    known = Snapshot(images={**world().images, "c": fails_again})
    assert turns(NOW, known) == {"a": Verdict.NO, "b": Verdict.NOW, "c": Verdict.NO}


def test_while_one_is_tried_the_others_wait() -> None:
    sending = upload(1, UploadState.UPLOADING, NOW, id="0000000007", phase="send", uploader="host-a")
    trying = image(
        "c", failed(1, 5 * HOUR), sending, uploads_claimed=frozenset({(sending.build_id, "north")})
    )
    known = Snapshot(images={**world().images, "c": trying})
    assert turns(NOW, known) == {"a": Verdict.NO, "b": Verdict.NO, "c": Verdict.RUNNING}
    assert decisions(known)["a"].reason.endswith(
        "Now c of build 00000001 is. This upload waits for what becomes of that."
    )
    assert claimable(decide_uploads(settings(), known, NOW), HERE) == ()
    # Nobody works on it any more: the janitor has to see to it, and another one may be tried.
    abandoned = replace(trying, uploads_claimed=frozenset())
    known = Snapshot(images={**world().images, "c": abandoned})
    assert list(turns(NOW, known).values()).count(Verdict.NOW) == 1


def test_one_that_is_through_and_only_waits_for_its_build_holds_back_none() -> None:
    holding = upload(2, UploadState.UPLOADING, NOW, id="0000000007", phase="hold")
    build = building(2, NOW - MINUTE, image="c", artifacts=ready(2, NOW).artifacts)
    waiting = records(
        build,
        replace(holding, image="c"),
        replace(failed(1, 5 * HOUR), image="c"),
        name="c",
        build_claimed=True,
        uploads_claimed=frozenset({(holding.build_id, "north")}),
    )
    known = Snapshot(images={**world().images, "c": waiting})
    assert turns(NOW, known) == {"a": Verdict.NO, "b": Verdict.NOW, "c": Verdict.RUNNING}


def test_machines_take_turns_since_one_of_them_may_be_switched_off() -> None:
    known = world(c=ELSEWHERE)
    until = breaker_of("north", known, POLICY, NOW).until
    assert until is not None
    first = {"a": Verdict.NO, "b": Verdict.LATER, "c": Verdict.NOW}
    second = {"a": Verdict.NO, "b": Verdict.NOW, "c": Verdict.LATER}
    assert turns(until, known) == first
    assert decisions(known, until)["b"].due == until + POLICY.first
    assert turns(until + POLICY.first, known) == second
    assert decisions(known, until + POLICY.first)["c"].due == until + 2 * POLICY.first
    assert turns(until + 2 * POLICY.first, known) == first


def test_an_image_with_trouble_of_its_own_still_waits_for_its_time() -> None:
    odd = image("c", failed(1, 5 * HOUR), failed(2, 4.5 * HOUR, UNKNOWN, PREFLIGHT))
    given_up = image("b", failed(1, 4 * HOUR), failed(2, HOUR, CANCELLED))
    known = Snapshot(images={**world().images, "b": given_up, "c": odd})
    assert turns(NOW, known) == {"a": Verdict.NO, "b": Verdict.NO, "c": Verdict.NOW}
    assert "There is no next try before a new build" in decisions(known)["b"].reason


def test_one_that_became_due_later_is_due_since_then() -> None:
    fresh = records(ready(2, NOW - MINUTE, image="c"), replace(failed(1, TRIED["c"]), image="c"), name="c")
    assert decisions(Snapshot(images={**world().images, "c": fresh}))["c"].due == NOW - MINUTE


def test_the_trouble_of_a_provider_is_waited_for_no_longer_than_its_breaker_says() -> None:
    """However often this very image was the one that was tried."""
    row = [failed(n, n * MINUTE) for n in range(1, 6)]
    until = judged(*row).until
    assert until is not None
    own = row[0].state_time + backoff(SETTINGS.upload_retry.first, 6 * HOUR, 5, row[0].name)
    assert until < own
    known = snapshot(records(ready(1, NOW - DAY), *row))
    (before,) = decide_uploads(SETTINGS, known, until - MINUTE)
    assert (before.verdict, before.due) == (Verdict.LATER, until)
    (then,) = decide_uploads(SETTINGS, known, until)
    assert (then.verdict, then.probe) == (Verdict.NOW, True)


def test_an_image_whose_own_time_is_later_says_so_while_all_wait() -> None:
    own = failed(2, timedelta(), CLOUD, CREATE)
    tried = [failed(1, HOUR, CLOUD, CREATE), own]
    known = snapshot(image("c", *tried, *three()))
    decision = decisions(known)["c"]
    until = breaker_of("north", known, POLICY, NOW).until
    own_time = NOW + backoff(SETTINGS.upload_retry.first, 6 * HOUR, 2, own.name)
    assert until is not None and until < own_time
    assert (decision.verdict, decision.due) == (Verdict.LATER, own_time)
    assert decision.reason.endswith(f"The next try is at {own_time:%Y-%m-%d %H:%M} UTC.")


def test_one_dead_region_delays_no_other() -> None:
    both = settings("north", "south")
    found = decide_uploads(both, world(), breaker_of("north", world(), POLICY, NOW).until - MINUTE)  # type: ignore[operator]
    assert {d.verdict for d in found if d.provider == "south"} == {Verdict.NOW}
    assert {d.verdict for d in found if d.provider == "north"} == {Verdict.LATER}


# -- failures that the breaker is for don't use up an image's own tries ------------------------------


def alone(*uploads: Upload, **changes) -> UploadDecision:
    (decision,) = decide_uploads(SETTINGS, snapshot(records(ready(1, NOW - DAY), *uploads)), NOW)
    return replace(decision, **changes)


def test_they_wait_longer_each_time_and_never_give_up() -> None:
    """Others succeed there, so the breaker stays closed: this one image alone is over its quota."""
    row = [failed(n, n * HOUR) for n in range(1, 20)]
    good = records(*(replace(upload(1, UploadState.READY, u.state_time), image="b") for u in row), name="b")
    known = snapshot(records(ready(1, NOW - DAY), *row), good)
    (decision,) = decide_uploads(SETTINGS, known, NOW)
    policy = SETTINGS.upload_retry
    assert decision.verdict is Verdict.LATER
    assert decision.due == NOW - HOUR + backoff(policy.first, policy.longest, 19, row[0].name)


def test_they_leave_the_tries_for_an_images_own_trouble() -> None:
    own = [failed(n, n * MINUTE, CLOUD, CREATE) for n in (1, 2)]
    others = [failed(n, n * HOUR) for n in (3, 4)]
    assert alone(*own, *others).verdict is Verdict.LATER
    assert alone(*own, failed(5, 3 * MINUTE, CLOUD, CREATE), *others).verdict is Verdict.NO


def test_a_clouds_yaml_that_could_not_be_read_is_tried_again() -> None:
    assert alone(failed(1, MINUTE, CONFIG, PREFLIGHT)).verdict is Verdict.LATER
    assert alone(failed(1, HOUR, CONFIG, PREFLIGHT)).verdict is Verdict.NOW
