"""A build goes through a canary, or waits for a word: with the real daemon, ZooKeeper, commands and check, in
two scripted regions."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.model import Build, CheckVerdict, Upload
from tests.functional.installation import Installation, processes_mentioning, wait_until
from tests.functional.test_withholding import built_twice, done, picked, serves, told

#: Seconds; long enough to look while it soaks, short enough to wait for.
SOAK = 8


def program(place: Installation, text: str) -> Path:
    """The check, which says what it was told in `asked`, and waits as long as there is a file `wait`."""
    file = place.root / "check"
    file.write_text(
        f'#!/bin/sh\ncd "{place.root}"\n'
        'echo "$IMAGEPOOL_PROVIDER $IMAGEPOOL_BUILD $IMAGEPOOL_IMAGE_ID" >> asked\n'
        f"while test -e wait; do sleep 0.1; done\n{text}\n"
    )
    file.chmod(0o755)
    return file


def asked(place: Installation) -> list[list[str]]:
    """What the check was told each time: provider, build and image."""
    file = place.root / "asked"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def canary(place: Installation, text: str = "exit 0", **changes: object) -> None:
    """From now on region one serves new builds first."""
    check = str(program(place, text))
    place.image["promote"] = {"canary": ["one"], "soak": f"{SOAK}s", "check": check, **changes}
    place.write()


def the_upload(place: Installation, build: Build, provider: str) -> Upload:
    (upload,) = place.snapshot().image("img").uploads_of(build.id, provider)
    return upload


def serving_first(place: Installation, **changes: object) -> tuple[Build, Build]:
    """A build that both regions serve, and one that came after it, of which region one is the canary."""
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    assert place.daemons[-1].stop() == 0
    canary(place, **changes)  # type: ignore[arg-type]
    place.start()
    done(place, "image", "build", "img", "--wait")
    return first, place.ready_build(after=first.id)


def test_a_build_soaks_in_the_canary_and_then_serves_everywhere(place: Installation) -> None:
    first, second = serving_first(place)
    place.until(lambda _: serves(place, second, ("one",)))
    assert serves(place, first, ("two",))
    seen = {picked(place, "two")}
    place.until(lambda s: s.image("img").build(second.id).cleared)  # type: ignore[union-attr]
    place.until(lambda _: serves(place, second))
    assert seen == {the_upload(place, first, "two").external_id}
    uploads = {name: the_upload(place, second, name) for name in ("one", "two")}
    assert asked(place) == [[name, second.id, str(u.external_id)] for name, u in uploads.items()]
    assert all(u.checked and u.checked.verdict is CheckVerdict.GOOD for u in uploads.values())
    one, two = uploads["one"].serving, uploads["two"].serving
    assert one is not None and two is not None and (two - one).total_seconds() >= SOAK
    (word,) = place.snapshot().image("img").builds[0].cleared
    turn = place.store.history("img")["two"][0]
    assert word.by == turn.by == "imagepool" and "`soak`" in turn.why


def test_what_the_check_refuses_never_leaves_the_canary_and_goes_into_quarantine(place: Installation) -> None:
    first, second = serving_first(place, text="echo no network; exit 1")
    place.until(lambda _: told(place, "one") == told(place, "two") == {second.id})
    place.until(lambda _: serves(place, first))
    known = place.snapshot().image("img").build(second.id)
    assert known is not None and known.quarantine is not None
    assert (known.quarantine.by, known.quarantine.why) == ("check in one", "no network")
    turns = place.store.history("img")
    assert [turn.build_id for turn in turns["two"]] == [first.id]
    # Who lets it out has the last word: it is not checked in the canary again.
    program(place, 'test "$IMAGEPOOL_PROVIDER" = two')
    done(place, "build", "unquarantine", second.id, "--no-wait")
    place.until(lambda _: serves(place, second))


def test_a_rollback_waits_for_no_check_and_a_promotion_neither(place: Installation) -> None:
    (place.root / "wait").touch()
    first, second = serving_first(place)
    wait_until(lambda: bool(asked(place)), place.story)
    place.until(lambda _: serves(place, second, ("one",)))
    assert "it runs since" in done(place, "image", "explain", "img", "-f", "json")
    done(place, "image", "rollback", "img", "--reason", "no network")
    assert serves(place, first)
    done(place, "build", "unquarantine", second.id, "--no-wait")
    wait_until(lambda: len(asked(place)) > 1, place.story)
    done(place, "image", "promote", "img", "--build", second.id, "--reason", "it is urgent")
    assert serves(place, second)
    wait_until(lambda: not processes_mentioning(str(place.root / "check")), place.story)
    assert "it is urgent" in place.store.history("img")["two"][0].why


def test_killed_while_the_check_runs_the_next_life_asks_again_and_nothing_is_left(
    place: Installation,
) -> None:
    place.settings["zookeeper-timeout"] = 2  # so long what a dead daemon claimed stays claimed
    (place.root / "wait").touch()
    _, second = serving_first(place)
    wait_until(lambda: bool(asked(place)), place.story)
    place.daemons[-1].kill()
    wait_until(lambda: not processes_mentioning(str(place.root / "check")), place.story)
    (place.root / "wait").unlink()
    place.start()
    place.until(lambda _: serves(place, second))
    assert [each[0] for each in asked(place)] == ["one", "one", "two"]


@pytest.mark.parametrize("everywhere", [True, False])
def test_by_hand_nothing_moves_before_somebody_says_so(place: Installation, everywhere: bool) -> None:
    place.image["promote"] = "manual"
    place.write()
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    done(place, "image", "build", "img", "--wait")
    second = place.ready_build(after=first.id)
    place.ready_uploads(second)
    place.start("--once").wait()
    assert serves(place, first)
    (listed,) = place.json("image", "list")
    assert f"imagepool image promote img --build {second.id[:8]}" in listed["reason"]
    done(place, "image", "promote", "img", *(() if everywhere else ("--provider", "two")))
    assert serves(place, second, ("one", "two") if everywhere else ("two",))
    assert everywhere or serves(place, first, ("one",))


def test_promote_that_is_changed_takes_nothing_back(place: Installation) -> None:
    _, second = built_twice(place)
    assert place.daemons[-1].stop() == 0
    canary(place)
    place.start("--once").wait()
    assert serves(place, second) and asked(place) == []


def test_a_held_build_takes_its_turn_once_it_is_released(place: Installation) -> None:
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    assert place.daemons[-1].stop() == 0
    place.image["budgets"] = {"size": {"most": 1}}  # no file is that small
    canary(place)
    place.start()
    assert place.cli("image", "build", "img").returncode == 0
    second = place.ready_build(after=first.id)
    refused = place.cli("image", "promote", "img", "--build", second.id)
    assert refused.returncode == 4
    assert all(f"imagepool build {word} {second.id[:8]}" in refused.stderr for word in ("release", "reject"))
    assert serves(place, first) and asked(place) == []
    done(place, "build", "release", second.id)
    place.until(lambda _: serves(place, second))
    one, two = (the_upload(place, second, name).serving for name in ("one", "two"))
    assert one is not None and two is not None and (two - one).total_seconds() >= SOAK
    assert [each[0] for each in asked(place)] == ["one", "two"]
