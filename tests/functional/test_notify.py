"""A daemon that tells how its builds end, to a real web server and a real program, and dies meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from builder.notify import webhook
from tests.fakes import receiver as fake
from tests.fakes.receiver import receiving
from tests.functional.installation import Installation, processes_mentioning, wait_until


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_builds_are_told_across_a_crash_and_wait_for_nobody(place: Installation, tmp_path: Path) -> None:
    said, stuck = tmp_path / "said", tmp_path / "stuck"
    secret = tmp_path / "chat.secret"
    secret.write_text("hush")
    program = tmp_path / "tell"
    program.write_text(f"#!/bin/sh\ncat >> {said}; echo >> {said}\n[ ! -e {stuck} ] || exec sleep 4711\n")
    program.chmod(0o755)
    stuck.touch()
    with receiving() as server:
        server.answers = [fake.hang]
        place.settings["notify"] = [
            {"name": "chat", "webhook": f"{server.url}/T0K3N", "secret-file": "chat.secret"},
            {"name": "program", "command": ["./tell"]},
        ]
        place.write()
        first = place.start()
        place.cli("image", "build", "img")
        build = place.ready_build()
        wait_until(lambda: bool(server.got and lines(said)), place.story)
        # Both hang: that is nobody's business but theirs.
        place.ready_uploads(build)

        first.kill()
        wait_until(lambda: not processes_mentioning("sleep 4711"), place.story)
        stuck.unlink()
        place.start()
        wait_until(lambda: len(server.got) == 2 and len(lines(said)) == 2, place.story)

        events = [json.loads(each.body) for each in server.got] + [json.loads(line) for line in lines(said)]
        assert [(each["build"], each["state"]) for each in events] == [(build.id, "ready")] * 4
        assert len({each["id"] for each in events}) == 1
        for each in server.got:
            stamp = each.headers["webhook-timestamp"]
            signed = webhook.headers_for(
                each.headers["webhook-id"], each.body, b"hush", datetime.fromtimestamp(int(stamp), UTC)
            )
            assert each.headers["webhook-signature"] == signed["webhook-signature"]

        place.knob("fail", "install 7")
        place.cli("image", "build", "img")
        failed = place.failed_build()
        wait_until(lambda: failed.id in said.read_text(), place.story)
        (told,) = [each for each in map(json.loads, lines(said)) if each["build"] == failed.id]
        assert (told["state"], told["reason"]["exit_code"]) == ("failed", 7)
    logs = "".join(daemon.text() for daemon in place.daemons)
    assert "hush" not in logs and "T0K3N" not in logs
    rows = {row["check"]: row for row in json.loads(place.cli("doctor", "-f", "json").stdout)}
    assert "told last at" in rows["notify program"]["found"]
