"""A small world to plan in: short names for records and configurations, and strategies for any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from builder.config.model import (
    BreakerPolicy,
    Config,
    DiskImage,
    Provider,
    ProviderImage,
    RetryPolicy,
    ScheduleEntry,
)
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Cancellation,
    Daemon,
    Deletion,
    Failure,
    FailureClass,
    ImageFormat,
    ImageRecords,
    Pause,
    Request,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadPhase,
    UploadState,
    UploadWish,
    Withholding,
)
from builder.planning.actions import Breaker, BuildDecision, UploadDecision, Verdict
from builder.planning.breakers import judge, testimonies
from builder.planning.builds import decide_build
from builder.planning.uploads import age

#: Half past two in the afternoon, sixteen minutes after the tick of the default schedule.
NOW = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
TICK = datetime(2026, 11, 21, 14, 14, tzinfo=UTC)
NEXT_TICK = TICK + timedelta(days=1)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

IMAGE = "debian-bookworm"
HERE = "machine-a"
ELSEWHERE = "machine-b"


# Every example is quick; on a busy machine the clock would say otherwise.
unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def build_id(number: int) -> str:
    """The id of the build of that number: 1 is "00000001" when shortened."""
    return f"{number:08x}" + "0" * 24


def diskimage(name: str = IMAGE, **changes: Any) -> DiskImage:
    return replace(DiskImage(name=name, formats=(ImageFormat.QCOW2,)), **changes)


def provider(
    name: str = "north",
    *images: str,
    pause: bool = False,
    keep: int = 2,
    keep_for: timedelta | None = None,
    **changes: Any,
) -> Provider:
    listed = {
        i: ProviderImage(diskimage=i, pause=pause, keep=keep, keep_for=keep_for) for i in images or (IMAGE,)
    }
    return replace(Provider(name=name, cloud=name, images=listed), **changes)


def config(*parts: DiskImage | Provider, **changes: Any) -> Config:
    """A configuration of those images and providers, with retries of 10, 20, 40... minutes, 5 in all.

    Breakers open after 3 failures, for 10, 20, 40... minutes, an hour at most.
    """
    there = Path("/nowhere")
    basic = Config(
        path=there,
        state_dir=there,
        images_dir=there,
        work_dir=there,
        cache_dir=there,
        log_dir=there,
        diskimages={p.name: p for p in parts if isinstance(p, DiskImage)},
        providers={p.name: p for p in parts if isinstance(p, Provider)},
        build_retry=RetryPolicy(first=10 * MINUTE, longest=6 * HOUR, limit=5),
        upload_retry=RetryPolicy(first=10 * MINUTE, longest=6 * HOUR, limit=3),
        upload_breaker=BreakerPolicy(failures=3, first=10 * MINUTE, longest=HOUR),
    )
    return replace(basic, **changes)


def failure(
    kind: FailureClass = FailureClass.MIRROR, message: str = "it broke", phase: str | None = None
) -> Failure:
    return Failure(failure_class=kind, message=message, phase=phase)


def artifact(image_format: ImageFormat = ImageFormat.QCOW2) -> Artifact:
    return Artifact(format=image_format, size=1, virtual_size=2, md5="m", sha256="s", sha512="t")


def ready(
    number: int, time: datetime, *formats: ImageFormat, took: timedelta = 10 * MINUTE, **changes: Any
) -> Build:
    """A build that became ready at `time` on this machine."""
    made = formats or (ImageFormat.QCOW2,)
    return replace(
        Build(
            id=build_id(number),
            image=IMAGE,
            state=BuildState.READY,
            state_time=time,
            builder="host-a",
            builder_id=HERE,
            formats=tuple(made),
            artifacts=tuple(artifact(f) for f in made),
            started=time - took,
            ended=time,
        ),
        **changes,
    )


def failed(
    number: int,
    time: datetime,
    kind: FailureClass = FailureClass.MIRROR,
    took: timedelta = MINUTE,
    **changes: Any,
) -> Build:
    """A build that failed at `time`."""
    basic = ready(number, time, took=took)
    return replace(
        basic,
        **{"state": BuildState.FAILED, "formats": (), "artifacts": (), "reason": failure(kind), **changes},
    )


def building(number: int, since: datetime, **changes: Any) -> Build:
    """A build that says it runs."""
    basic = ready(number, since, took=timedelta())
    return replace(
        basic,
        **{
            "state": BuildState.BUILDING,
            "formats": (),
            "artifacts": (),
            "ended": None,
            "phase": "packages",
            **changes,
        },
    )


def doomed(build: Build) -> Build:
    """The same build after somebody asked for it to go."""
    return build.become(BuildState.DELETING, NOW - MINUTE)


def upload(
    number: int,
    state: UploadState,
    time: datetime,
    to: str = "north",
    kind: FailureClass | None = None,
    id: str = "0000000001",  # noqa: A002 - the field's name
    during: UploadPhase | None = None,
    **changes: Any,
) -> Upload:
    """An upload of the build of that number, in that state since `time`; it failed in the phase `during`."""
    return replace(
        Upload(
            id=id,
            build_id=build_id(number),
            image=IMAGE,
            provider=to,
            state=state,
            state_time=time,
            started=time - MINUTE,
            reason=failure(kind, phase=during) if kind else None,
        ),
        **changes,
    )


def wish(time: datetime = NOW - MINUTE, *, wanted: bool, to: str = "north") -> UploadWish:
    return UploadWish(provider=to, wanted=wanted, by="ann", time=time, why="it does not boot")


def held(
    build: Build, provider: str | None = None, time: datetime = NOW - MINUTE, why: str = "it does not boot"
) -> Build:
    """The same build after somebody withheld it from a provider, or from everywhere."""
    return build.withhold(Withholding(provider=provider, by="ann", time=time, why=why))


def asked(
    time: datetime = NOW - MINUTE, *, manual: bool = True, by: str = "ann", why: str = "new kernel"
) -> Request:
    return Request(image=IMAGE, by=by, why=why, time=time, manual=manual)


def records(*parts: Build | Upload | Request, name: str = IMAGE, **changes: Any) -> ImageRecords:
    return replace(
        ImageRecords(
            name=name,
            builds=tuple(p for p in parts if isinstance(p, Build)),
            uploads=tuple(p for p in parts if isinstance(p, Upload)),
            request=next((p for p in parts if isinstance(p, Request)), None),
        ),
        **changes,
    )


def daemon(builder_id: str | None = HERE, hostname: str = "host-a", **changes: Any) -> Daemon:
    """A daemon with all roles, one build worker and no labels."""
    return replace(
        Daemon(
            hostname=hostname,
            roles=("scheduler", "builder", "uploader", "janitor"),
            version="1",
            started=NOW - DAY,
            builder_id=builder_id,
        ),
        **changes,
    )


def paused(by: str = "ann", why: str = "mirror moves", time: datetime = NOW - HOUR) -> Pause:
    return Pause(by=by, time=time, why=why)


def every(text: str, **changes: Any) -> tuple[ScheduleEntry, ...]:
    """A schedule of one cron expression in UTC."""
    return (replace(ScheduleEntry(text=text, cron=text), **changes),)


def following(image: str) -> tuple[ScheduleEntry, ...]:
    """A schedule that follows another image."""
    return (ScheduleEntry(text=f"@after {image}", after=image),)


def snapshot(*images: ImageRecords, **changes: Any) -> Snapshot:
    """Those records, and this machine's daemon."""
    return replace(Snapshot(images={i.name: i for i in images}, daemons=(daemon(),)), **changes)


def decide(
    image: DiskImage, known: ImageRecords, settings: Config, now: datetime = NOW, **changes: Any
) -> BuildDecision:
    """The decision on the next build of an image of which those are the records."""
    return decide_build(image, snapshot(known, **changes), settings, now)


# -- anything ---------------------------------------------------------------------------------

PROVIDERS = ("north", "south", "gone")
times = st.integers(-60 * 24 * 20, 90).map(lambda minutes: NOW + minutes * MINUTE)
texts = st.sampled_from(["", "it broke", "two\nlines.", "ends with a stop."])
requests = st.builds(
    Request,
    image=st.just(IMAGE),
    by=texts,
    why=texts,
    time=times,
    manual=st.booleans(),
    force=st.booleans(),
    urgent=st.booleans(),
    tick=st.sampled_from([None, TICK, TICK - DAY]),
    stamp=st.just(1),
)
pauses = st.builds(Pause, by=texts, time=times, why=texts)
cancellations = st.builds(
    Cancellation,
    image=st.just(IMAGE),
    build_id=st.integers(1, 6).map(build_id),
    by=texts,
    time=times,
    why=texts,
)
failures = st.builds(
    Failure,
    failure_class=st.sampled_from(FailureClass),
    message=texts,
    phase=st.sampled_from([None, *UploadPhase]),
)
wishes = st.builds(
    UploadWish, provider=st.sampled_from(PROVIDERS[:2]), wanted=st.booleans(), by=texts, time=times, why=texts
)
withholdings = st.builds(
    Withholding, provider=st.sampled_from([None, *PROVIDERS[:2]]), by=texts, time=times, why=texts
) | st.builds(Withholding, provider=st.none(), held=st.just(True), by=texts, time=times, why=texts)
upload_cancellations = st.builds(
    UploadCancellation,
    upload=st.sampled_from([f"{build_id(1)}/north/0000000001", f"{build_id(2)}/south/0000000002"]),
    image=st.just(IMAGE),
    by=texts,
    time=times,
    why=texts,
)
deletions = st.builds(Deletion, by=st.sampled_from(["ann", "imagepool"]), time=times, why=texts)


@st.composite
def builds(draw: st.DrawFn, number: int) -> Build:
    state = draw(st.sampled_from(BuildState))
    formats = draw(st.sets(st.sampled_from([ImageFormat.QCOW2, ImageFormat.RAW])))
    time = draw(times)
    return Build(
        id=build_id(number),
        image=IMAGE,
        state=state,
        state_time=time,
        builder=draw(st.sampled_from([None, "host-a"])),
        builder_id=draw(st.sampled_from([None, HERE, ELSEWHERE])),
        formats=tuple(sorted(formats)),
        artifacts=tuple(artifact(f) for f in sorted(formats)) if draw(st.booleans()) else (),
        started=draw(st.sampled_from([None, time - 10 * MINUTE])),
        ended=draw(st.sampled_from([None, time])),
        reason=draw(st.none() | failures) if state is BuildState.FAILED else None,
        request=draw(st.none() | requests),
        checked=draw(st.none() | times),
        inputs=draw(st.sampled_from([{}, {"packages": "a1"}])),
        changes=draw(st.sampled_from([(), ("packages: a 1 -> 2.", "two\nlines"), ("x",) * 5])),
        pruned=tuple(sorted(draw(st.sets(st.sampled_from(sorted(formats)))))) if formats else (),
        wishes=tuple(draw(st.lists(wishes, max_size=2, unique_by=lambda each: each.provider))),
        withheld=tuple(draw(st.lists(withholdings, max_size=1))) if draw(st.booleans()) else (),
    )


@st.composite
def uploads(draw: st.DrawFn, number: int) -> Upload:
    state = draw(st.sampled_from(UploadState))
    return Upload(
        id=f"{number:010}",
        build_id=build_id(draw(st.integers(1, 5))),
        image=IMAGE,
        provider=draw(st.sampled_from(PROVIDERS)),
        state=state,
        state_time=draw(times),
        reason=draw(st.none() | failures) if state is UploadState.FAILED else None,
        phase=draw(st.none() | st.sampled_from(UploadPhase)),
        ended=draw(st.none() | times),
        external_id=draw(st.none() | st.just(f"image-{number}")),
        external_name=draw(st.sampled_from([None, "img-1"])),
        cloud=draw(st.sampled_from([None, "there"])),
        serving=draw(st.none() | times) if state in (UploadState.READY, UploadState.DELETING) else None,
        stable_name=draw(st.sampled_from([None, "newest", "older"])),
        stable_tag=draw(st.sampled_from([None, "in-service"])),
        hidden=draw(st.booleans()),
        withheld=draw(st.none() | times),
        deletion=draw(st.none() | deletions) if state is UploadState.DELETING else None,
    )


@st.composite
def image_records(draw: st.DrawFn) -> ImageRecords:
    made = [draw(builds(n)) for n in range(1, draw(st.integers(0, 5)) + 1)]
    sent = [draw(uploads(n)) for n in range(1, draw(st.integers(0, 8)) + 1)]
    return ImageRecords(
        name=IMAGE,
        pause=draw(st.none() | pauses),
        ticks=draw(st.dictionaries(st.sampled_from(["14 14 * * *", "@after base"]), times, max_size=2)),
        request=draw(st.none() | requests),
        cancellation=draw(st.none() | cancellations),
        upload_cancellations=tuple(
            draw(st.lists(upload_cancellations, max_size=2, unique_by=lambda each: each.upload))
        ),
        builds=tuple(sorted(made, key=lambda b: b.state_time, reverse=True)),
        uploads=tuple(sorted(sent, key=lambda u: u.state_time, reverse=True)),
        build_claimed=draw(st.booleans()),
        uploads_claimed=frozenset((u.build_id, u.provider) for u in sent if draw(st.booleans())),
    )


schedules = st.sampled_from(
    [
        (),
        every("14 14 * * *"),
        every("0 * * * *"),
        every("30 14 * * *", zone="Asia/Tokyo"),
        every("14 14 * * *") + every("0 6 * * 1"),
        following("base"),
    ]
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """One image, perhaps of no format, and two providers, or no image at all."""
    image = diskimage(
        formats=tuple(sorted(draw(st.sets(st.sampled_from([ImageFormat.QCOW2, ImageFormat.RAW]))))),
        schedule=draw(schedules),
        catch_up=draw(st.sampled_from([timedelta(), HOUR, 12 * HOUR])),
        rebuild_age=draw(st.sampled_from([None, DAY, 3 * HOUR])),
        pause=draw(st.booleans()),
        keep=draw(st.integers(0, 3)),
        skip_unchanged=draw(st.booleans()),
        max_age=draw(st.sampled_from([None, DAY, 7 * DAY])),
        delete_after_upload=draw(st.booleans()),
        keep_formats=draw(st.sampled_from([(), (ImageFormat.RAW,)])),
        keep_for=draw(st.sampled_from([None, DAY])),
        stable_name=draw(st.sampled_from([None, "newest"])),
        stable_tag=draw(st.sampled_from([None, "in-service"])),
        promote=draw(st.sampled_from(["each", "all", 1, 2, 9])),
        hide_old=draw(st.booleans()),
    )
    clouds = [
        provider(
            name,
            pause=draw(st.booleans()),
            keep=draw(st.integers(0, 3)),
            keep_for=draw(st.sampled_from([None, DAY])),
            image_format=draw(st.sampled_from([ImageFormat.QCOW2, ImageFormat.RAW])),
        )
        for name in PROVIDERS[:2]
    ]
    here = [image] if draw(st.booleans()) or draw(st.booleans()) else []
    return config(
        *here,
        *clouds,
        spread=draw(st.sampled_from([timedelta(), HOUR])),
        upload_breaker=BreakerPolicy(failures=draw(st.integers(1, 3)), first=10 * MINUTE),
    )


def breaker_of(provider: str, known: Snapshot, policy: BreakerPolicy, now: datetime) -> Breaker:
    """The breaker of the provider of that name, configured or not."""
    heard = (testimonies(each).get(provider) for each in known.images.values())
    return judge(provider, [each for each in heard if each is not None], policy, now)


def claimable(decisions: Iterable[UploadDecision], builder_id: str) -> tuple[UploadDecision, ...]:
    """`UploadPlan.claimable` said plainly, of all decisions, as test_planning_planner.py compares them."""
    every = tuple(decisions)
    turns = Counter(d.provider for d in every if d.verdict is Verdict.RUNNING)
    mine = [
        d
        for d in every
        if d.verdict is Verdict.NOW and d.build is not None and d.build.builder_id == builder_id
    ]
    ordered: list[tuple[int, UploadDecision]] = []
    for decision in sorted(mine, key=age):
        ordered.append((turns[decision.provider], decision))
        turns[decision.provider] += 1
    return tuple(decision for _, decision in sorted(ordered, key=lambda pair: pair[0]))
