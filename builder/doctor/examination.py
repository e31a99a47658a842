"""Runs the checks of some roles at the same time, within a bound."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from builder.bounded import at_once
from builder.cloud.openstack import OpenStackCloud
from builder.config.model import Provider, masked_credentials
from builder.doctor import checks as canary_checks
from builder.doctor import clouds, daemon, images, machine, notifications, records
from builder.doctor.world import World
from builder.errors import ImagepoolError
from builder.findings import Finding, problem

LOG = logging.getLogger(__name__)

#: Who needs it: a role, or all of them.
EVERY_ROLE: Final = "all"
#: Seconds for ZooKeeper, and then for everything else together.
RECORDS_TIMEOUT: Final = 20.0
CHECKS_TIMEOUT: Final = 40.0
#: Seconds for each request to a cloud.
CLOUD_TIMEOUT: Final = 10.0

_NO_ANSWER: Final = "not done within {seconds:g} s"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One look at something, for one role."""

    role: str
    name: str
    look: Callable[[], Iterable[Finding]]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A finding, and the role that it matters to."""

    role: str
    finding: Finding


def cloud_of(provider: Provider) -> OpenStackCloud:
    """The real cloud of a provider, which is not waited for as long as an upload would."""
    return OpenStackCloud(provider, answer_timeout=CLOUD_TIMEOUT)


def examine(world: World, roles: Sequence[str]) -> tuple[Diagnosis, ...]:
    """Every finding for these roles, in a fixed order; ends within RECORDS_TIMEOUT + CHECKS_TIMEOUT.

    The records are looked at first: what builds took tells what the next will need.
    """
    (looked,) = at_once([partial(_records, world)], seconds=RECORDS_TIMEOUT)
    if looked is None:
        late = problem(records.NAME, _NO_ANSWER.format(seconds=RECORDS_TIMEOUT))
        looked = records.Records(findings=(late,))
    world = replace(world, snapshot=looked.snapshot)
    checks = [check for check in _checks(world) if check.role in (EVERY_ROLE, *roles)]
    done = at_once([partial(_findings, check) for check in checks], seconds=CHECKS_TIMEOUT)
    found = [Diagnosis(role=EVERY_ROLE, finding=finding) for finding in looked.findings]
    for check, findings in zip(checks, done, strict=True):
        late = problem(check.name, _NO_ANSWER.format(seconds=CHECKS_TIMEOUT))
        found += [
            Diagnosis(role=check.role, finding=each) for each in ((late,) if findings is None else findings)
        ]
    return tuple(found)


def _records(world: World) -> records.Records:
    try:
        return records.look(world.config, world.environ, world.now)
    except Exception as error:  # noqa: BLE001 - as for the other checks
        return records.Records(findings=(_bug(records.NAME, error),))


def _findings(check: Check) -> tuple[Finding, ...]:
    # Most of them are generators: they have to run on their own thread, and to their end.
    try:
        return tuple(check.look())
    except ImagepoolError as error:
        return (problem(check.name, error.message, hint=error.hint),)
    except OSError as error:
        hint = "Run this as the user that the daemon runs as."
        return (problem(check.name, f"can't be looked at: {error}", hint=hint),)
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide what the others find
        return (_bug(check.name, error),)


def _bug(name: str, error: Exception) -> Finding:
    LOG.debug("the check %s broke", name, exc_info=error)
    text = f"can't be checked: {type(error).__name__}: {masked_credentials(str(error))}"
    return problem(name, text, hint="This is a bug in imagepool. With -vv, the log shows where.")


def _checks(world: World) -> Iterator[Check]:
    yield Check(role=EVERY_ROLE, name="configuration", look=partial(daemon.configuration, world.config))
    yield Check(role=EVERY_ROLE, name="state directory", look=partial(daemon.state_directory, world.config))
    for name, look in machine.CHECKS.items():
        yield Check(role="builder", name=name, look=partial(look, world))
    for image in world.images:
        yield Check(role="builder", name=f"image {image.name}", look=partial(images.look, world, image))
    yield Check(role="builder", name="mirror", look=partial(images.mirrors, world))
    yield Check(role="builder", name="notify", look=partial(notifications.look, world.config))
    look_at_canaries = partial(canary_checks.look, world.config, world.snapshot, world.now)
    yield Check(role="uploader", name="check", look=look_at_canaries)
    for provider in world.providers:
        look_at = partial(clouds.look, provider, world.cloud)
        yield Check(role="uploader", name=f"provider {provider.name}", look=look_at)
