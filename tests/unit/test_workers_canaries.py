"""The promoter and the check of the canaries, which is a real program here: what it is told, what it says,
and what becomes of the build."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloudimage import IMAGE
from builder.config.model import Canary, ProviderImage
from builder.model import (
    Build,
    Checked,
    CheckVerdict,
    Clearance,
    Snapshot,
    Upload,
    UploadState,
    Withholding,
)
from builder.store.base import Store
from builder.workers.base import Recent
from builder.workers.promoter import Promoter
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore, FakeTree
from tests.unit.mortal_world import Fate, Killed, MortalCloud, MortalStore
from tests.unit.test_workers_hook import alive
from tests.unit.test_workers_promoter import behind, current, ready, taken
from tests.unit.worker_world import NOW, Stage

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

HOUR = timedelta(hours=1)
SOAK = 2 * HOUR


def program(root: Path, text: str, name: str = "check") -> tuple[str, ...]:
    file = root / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return (str(file),)


def staged(root: Path, text: str = "exit 0", **changes: object) -> Stage:
    """Region `one` serves new builds first."""
    root.mkdir(exist_ok=True)
    return arranged(Stage(root), text, **changes)


def arranged(stage: Stage, text: str, **changes: object) -> Stage:
    policy: dict[str, object] = {"providers": ("one",), "soak": SOAK}
    if text:
        policy["check"] = program(stage.root, text)
    stage.image(promote=Canary(**{**policy, **changes}))  # type: ignore[arg-type]
    return stage


def work(stage: Stage) -> Promoter:
    """A promoter that has just started, until nothing is due."""
    promoter, did = Promoter(stage.world, "promoter"), True
    while did:
        promoter.step()
        did = promoter.drain()
    return promoter


def begun(stage: Stage) -> tuple[Upload, Upload]:
    """The first build serves all regions; the second is ready in all. Its uploads in the first two."""
    policy = stage.config.diskimages["img"].promote
    stage.image(promote="each")
    for region in stage.clouds:
        ready(stage, 1, region)
    work(stage)
    stage.image(promote=policy)
    uploads = tuple(behind(stage, ready(stage, 2, region)) for region in stage.clouds)
    return uploads[0], uploads[1]


def serves(stage: Stage) -> dict[str, int]:
    """Which build each region serves, by the records and in nodepool's sense."""
    found = {}
    for region in ("one", "two"):
        (upload,) = [u for u in stage.uploads(region) if u.serving is not None]
        assert taken(stage, region) == upload.name
        found[region] = int(upload.build_id, 16)
    return found


def verdict(stage: Stage, upload: Upload) -> CheckVerdict | None:
    checked = current(stage, upload).checked
    return None if checked is None else checked.verdict


def build_of(stage: Stage, upload: Upload) -> Build:
    return stage.store.get_build(upload.image, upload.build_id)


def test_a_build_goes_through_the_canary_and_then_to_the_others(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    one, two = begun(stage)
    work(stage)
    assert serves(stage) == {"one": 2, "two": 1}
    assert (verdict(stage, one), verdict(stage, two)) == (CheckVerdict.GOOD, None)
    stage.now = NOW + SOAK - timedelta(seconds=1)
    work(stage)
    assert serves(stage) == {"one": 2, "two": 1} and build_of(stage, one).cleared == ()
    stage.now = NOW + SOAK
    work(stage)
    assert serves(stage) == {"one": 2, "two": 2} and verdict(stage, two) is CheckVerdict.GOOD
    (word,) = build_of(stage, one).cleared
    assert (word.provider, word.by, word.time) == (None, "imagepool", stage.now)
    turn = stage.store.history("img")["two"][0]
    assert (turn.by, "it was served by one since" in turn.why) == ("imagepool", True)


def test_the_promoter_wakes_up_when_the_soak_is_over(tmp_path: Path) -> None:
    stage = staged(tmp_path, "")
    begun(stage)
    assert work(stage).step().due == NOW + SOAK


def test_the_check_is_told_what_it_is_about_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "hush")
    stage = staged(tmp_path, 'env > seen; echo "$# $1"', check_timeout=timedelta(minutes=1))
    stage.image(
        promote=Canary(
            providers=("one",), soak=SOAK, check=(*program(tmp_path, 'env > seen; echo "$# $1"'), "-v")
        )
    )
    one, _ = begun(stage)
    work(stage)
    checked = current(stage, one).checked
    assert checked is not None and checked.why == "1 -v"
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    told = {name: value for name, value in seen.items() if name.startswith(("IMAGEPOOL_", "OS_"))}
    assert told == {
        "IMAGEPOOL_IMAGE": "img",
        "IMAGEPOOL_BUILD": one.build_id,
        "IMAGEPOOL_PROVIDER": "one",
        "IMAGEPOOL_REGION": "one",
        "IMAGEPOOL_IMAGE_ID": one.external_id,
        "OS_CLOUD": "fake",
        "OS_REGION_NAME": "one",
    }


@pytest.mark.parametrize("code", [1, 2, 74, 125, 128])
def test_what_the_check_refuses_in_a_canary_is_put_in_quarantine(tmp_path: Path, code: int) -> None:
    stage = staged(tmp_path, f"echo no; echo 'no network'; exit {code}")
    one, _ = begun(stage)
    work(stage)
    assert serves(stage) == {"one": 1, "two": 1}
    word = build_of(stage, one).quarantine
    assert word is not None and (word.by, word.why) == ("check in one", "no network")
    assert verdict(stage, one) is CheckVerdict.REFUSED


def test_what_a_terminal_obeys_is_no_reason(tmp_path: Path) -> None:
    text = r"printf '\033[31mno network\342\200\256 on eth0\033[0m\n\033[0m\n'; exit 1"
    stage = staged(tmp_path, text)
    upload, _ = begun(stage)
    work(stage)
    build = stage.world.store.get_build(upload.image, upload.build_id)
    assert build.quarantine is not None and build.quarantine.why == "no network on eth0"


def test_what_it_refuses_elsewhere_is_withheld_from_there_alone(tmp_path: Path) -> None:
    stage = staged(tmp_path, 'test "$IMAGEPOOL_PROVIDER" = one || { echo "no disk"; exit 1; }')
    one, two = begun(stage)
    work(stage)
    stage.now = NOW + SOAK
    work(stage)
    assert serves(stage) == {"one": 2, "two": 1}
    (word,) = build_of(stage, one).withheld
    assert (word.provider, word.by, word.why) == ("two", "check in two", "no disk")
    assert verdict(stage, two) is CheckVerdict.REFUSED


CAN_NOT_TELL = {
    "EX_TEMPFAIL": ("echo 'no quota'; exit 75", "no quota"),
    "it can't run something": ("exit 126", "it said nothing, and ended with exit code 126"),
    "it lacks something": ("openstack-that-is-not-there", "not found"),
    "a signal": ("kill -9 $$", "it said nothing, and was ended by signal 9"),
    "a signal below a shell": ("exit 137", "it said nothing, and ended with exit code 137"),
}


@pytest.mark.parametrize(("text", "why"), CAN_NOT_TELL.values(), ids=CAN_NOT_TELL.keys())
def test_a_check_that_can_not_tell_refuses_nothing_and_is_asked_again(
    tmp_path: Path, text: str, why: str
) -> None:
    stage = staged(tmp_path, f"echo . >> asked; {text}")
    one, _ = begun(stage)
    work(stage)
    checked = current(stage, one).checked
    assert checked is not None and checked.verdict is CheckVerdict.UNKNOWN
    assert checked.tries == 1 and why in checked.why
    assert serves(stage)["one"] == 2 and build_of(stage, one).withheld == ()
    stage.now = NOW + timedelta(seconds=29)
    assert work(stage).step().due is not None
    assert (tmp_path / "asked").read_text().count(".") == 1
    program(tmp_path, "exit 0")
    stage.now = NOW + timedelta(minutes=1)
    work(stage)
    assert verdict(stage, one) is CheckVerdict.GOOD


def test_a_check_that_is_missing_or_does_not_end_can_not_tell(tmp_path: Path) -> None:
    missing = staged(tmp_path / "missing", "", check=("/nowhere/check",))
    one, _ = begun(missing)
    work(missing)
    checked = current(missing, one).checked
    assert checked is not None and checked.verdict is CheckVerdict.UNKNOWN and "/nowhere/check" in checked.why
    slow = staged(tmp_path / "slow", "echo no answer yet; sleep 60", check_timeout=timedelta(seconds=2))
    one, _ = begun(slow)
    work(slow)
    checked = current(slow, one).checked
    assert checked is not None and checked.verdict is CheckVerdict.UNKNOWN
    assert checked.why.endswith("check did not end within 2 s; it said last: no answer yet")


def test_a_restart_asks_nobody_again(tmp_path: Path) -> None:
    stage = staged(tmp_path, "echo . >> asked")
    begun(stage)
    for _ in range(3):
        work(stage)
        stage = stage.next_life()
    assert (tmp_path / "asked").read_text() == ".\n"


def test_a_check_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    one, _ = begun(stage)
    stage.image(promote=Canary(providers=("one",), soak=SOAK))
    work(stage)
    arranged(stage, "exit 0")
    running = Checked(verdict=CheckVerdict.RUNNING, time=NOW)
    stage.store.put(upload_with(stage, one, running))
    work(stage)
    assert verdict(stage, one) is CheckVerdict.GOOD


def upload_with(stage: Stage, of: Upload, checked: Checked) -> Upload:
    return replace(current(stage, of), checked=checked)


def test_while_another_daemon_asks_nobody_else_does(tmp_path: Path) -> None:
    stage = staged(tmp_path, "echo . >> asked")
    one, _ = begun(stage)
    other = stage.store.another_daemon()
    claim = other.claim_uploads(one.image, one.build_id, one.provider)
    assert claim is not None
    work(stage)
    assert not (tmp_path / "asked").exists() and serves(stage)["one"] == 2
    claim.release()
    work(stage)
    assert (tmp_path / "asked").exists()


class Hanging:
    """A check that hangs, and a promoter that works on while it does."""

    def __init__(self, stage: Stage, upload: Upload) -> None:
        self.stage = stage
        self.promoter = Promoter(stage.world, "promoter")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        stage.until((stage.root / f"hangs-{upload.image}").exists)

    def _run(self) -> None:
        self.promoter.run()

    def stop(self) -> None:
        self.stage.world.draining.set()
        self.stage.store.wake()
        self._thread.join(30)
        assert not self._thread.is_alive()


BEGINS = 'touch "hangs-$IMAGEPOOL_IMAGE"'
HANGS = f"{BEGINS}; sleep 300"


def test_a_check_that_hangs_holds_up_no_other_image_and_ends_with_the_daemon(tmp_path: Path) -> None:
    stage = staged(tmp_path, HANGS)
    one, _ = begun(stage)
    hanging = Hanging(stage, one)
    stage.image("other", promote="each")
    stage.provider("one", images={n: ProviderImage(diskimage=n) for n in ("img", "other")})
    record = ready(stage, 9)
    known = stage.clouds["one"].images[str(record.external_id)].properties
    stage.clouds["one"].change(str(record.external_id), properties={**known, IMAGE: "other"})
    other = Upload(**{**vars(record), "image": "other", "version": -1, "serving": None})
    stage.store.put(Build(**{**vars(build_of(stage, record)), "image": "other"}))
    stage.store.put(other)
    stage.until(lambda: any(u.serving for u in stage.uploads("one", "other")))
    assert verdict(stage, one) is CheckVerdict.RUNNING
    hanging.stop()
    assert stage.store.snapshot().image("img").uploads_claimed == frozenset()


def test_what_a_check_started_ends_with_the_daemon_however_stubborn_it_is(tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn"
    begins = f'(trap "" TERM; exec sleep 300) & echo $! > {stubborn}; {BEGINS}; wait'
    stage = staged(tmp_path, begins)
    one, _ = begun(stage)
    hanging = Hanging(stage, one)
    hanging.stop()
    assert stage.store.snapshot().image("img").uploads_claimed == frozenset()
    stage.until(lambda: not alive(int(stubborn.read_text())))


def test_no_more_checks_run_at_once_than_a_machine_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.workers.promoter._AT_ONCE", 1)
    stage = Stage(tmp_path, clouds={name: FakeCloud() for name in ("one", "two", "three")})
    arranged(stage, "mkdir alone || exit 1; sleep 1; rmdir alone", providers=("one", "two"))
    uploads = begun(stage)
    work(stage)
    assert [verdict(stage, upload) for upload in uploads] == [CheckVerdict.GOOD, CheckVerdict.GOOD]


@pytest.mark.parametrize("why", ["withheld", "promoted by hand", "no check is configured any more"])
def test_a_check_that_nobody_needs_any_more_is_ended_and_says_nothing(tmp_path: Path, why: str) -> None:
    stage = staged(tmp_path, HANGS)
    one, _ = begun(stage)
    hanging = Hanging(stage, one)
    if why == "withheld":
        word = Withholding(provider=None, by="ann", time=NOW, why="no network")
        stage.store.withhold("img", one.build_id, word)
        stage.until(lambda: serves(stage)["one"] == 1)
    elif why == "no check is configured any more":
        stage.image(promote=Canary(providers=("one",), soak=SOAK))
    else:
        stage.store.clear("img", one.build_id, Clearance(provider=None, by="ann", time=NOW))
        stage.until(lambda: serves(stage)["two"] == 2)
    stage.until(lambda: verdict(stage, one) is None)
    stage.until(lambda: not stage.store.snapshot().image("img").uploads_claimed)
    hanging.stop()


class Meddling(FakeStore):
    """A store in which ann says something right before the next word of the canaries is written."""

    word: Clearance | None = None

    def clear(self, image: str, build_id: str, word: Clearance) -> Build:
        self._meddle(image, build_id)
        return super().clear(image, build_id, word)

    def update_build(self, build: Build) -> Build:
        self._meddle(build.image, build.id)
        return super().update_build(build)

    def _meddle(self, image: str, build_id: str) -> None:
        word, self.word = self.word, None
        if word is not None:
            super().clear(image, build_id, word)


def test_somebody_s_word_in_the_moment_in_which_it_is_let_out_stays(tmp_path: Path) -> None:
    """By theirs it waits for no check in the other regions; by ours it would."""
    store = Meddling()
    stage = arranged(Stage(tmp_path, store=store), "")
    one, _ = begun(stage)
    work(stage)
    stage.now = NOW + SOAK
    store.word = Clearance(provider=None, by="ann", time=stage.now)
    for _ in range(2):
        work(stage)
    assert [word.by for word in build_of(stage, one).cleared] == ["ann"]
    assert serves(stage) == {"one": 2, "two": 2}


class Lagging(Recent):
    """What was seen first is seen for ever."""

    first: Snapshot | None = None

    def snapshot(self, store: Store) -> Snapshot:
        self.first = self.first or store.snapshot()
        return self.first


def test_what_somebody_promotes_before_the_check_refuses_it_is_not_refused(tmp_path: Path) -> None:
    """They said so in the last moment, in which nothing ended the check."""
    stage = staged(tmp_path, f"{BEGINS}; until test -e over; do sleep 0.1; done; exit 1")
    one, _ = begun(stage)
    recent = Lagging()
    stage.world = replace(stage.world, recent=recent)
    hanging = Hanging(stage, one)
    stage.until(lambda: recent.first is not None)
    stage.store.clear("img", one.build_id, Clearance(provider=None, by="ann", time=NOW))
    (tmp_path / "over").touch()
    stage.until(lambda: verdict(stage, one) is None)
    assert build_of(stage, one).withheld == ()
    hanging.stop()


def test_somebody_s_word_lets_it_serve_at_once_and_says_whose_it_was(tmp_path: Path) -> None:
    stage = staged(tmp_path, "exit 1")
    stage.image(promote="manual")
    one, _ = begun(stage)
    work(stage)
    assert serves(stage) == {"one": 1, "two": 1}
    stage.store.clear("img", one.build_id, Clearance(provider="two", by="ann", time=NOW, why="it is urgent"))
    work(stage)
    assert serves(stage) == {"one": 1, "two": 2}
    turn = stage.store.history("img")["two"][0]
    assert turn.by == "ann" and turn.why.endswith(
        "it was promoted by ann at 2026-11-21 12:00 UTC: it is urgent."
    )


# -- killed at any moment ---------------------------------------------------------------------------


def lived(
    root: Path, tree: FakeTree, clouds: dict[str, FakeCloud], fate: Fate, life: int, check: str
) -> Stage:
    """A life of the daemon, so many hours later."""
    mortal = {name: MortalCloud(fate, cloud) for name, cloud in clouds.items()}
    stage = Stage(root, store=MortalStore(tree, fate), clouds=dict(mortal), now=NOW + life * HOUR)
    return arranged(stage, check)


@pytest.mark.parametrize(
    ("check", "end"), [("exit 0", {"one": 2, "two": 2}), ("echo bad; exit 1", {"one": 1, "two": 1})]
)
def test_killed_at_any_moment_the_next_life_brings_it_to_the_same_end(
    tmp_path: Path, check: str, end: dict[str, int]
) -> None:
    moment, died = 0, True
    while died:
        moment += 11  # each of them takes the run of a program or two
        root = tmp_path / str(moment)
        root.mkdir()
        tree, clouds = FakeTree(), {"one": FakeCloud(), "two": FakeCloud()}
        one, _ = begun(lived(root, tree, clouds, Fate(), 0, check))
        fate = Fate()
        doomed = lived(root, tree, clouds, fate, 1, check)
        fate.doom(moment)
        died = False
        try:
            work(doomed)
            doomed.now += SOAK
            work(doomed)
        except Killed:
            died = True
        FakeStore.close(doomed.store)
        last = lived(root, tree, clouds, Fate(), 2, check)
        work(last)
        last.now = NOW + 10 * HOUR
        work(last)
        assert serves(last) == end
        assert tree.claims == {}
        refused = end["one"] == 1
        assert (build_of(last, one).quarantine is not None) is refused
        words = {None} if not refused else set()
        assert {word.provider for word in build_of(last, one).cleared} == words
        ready_ones = [u for u in tree.uploads.values() if u.state is UploadState.READY]
        assert len(ready_ones) == 4
    assert moment > 30
