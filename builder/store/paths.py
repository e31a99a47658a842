"""Where every record, lock and marker lives in ZooKeeper.

nodepool 11's tree, node for node. Of our own there are two nodes right below an image: deeper, nodepool's
readers take whatever they find for a build or an upload.

    /nodepool/images/<image>                                      empty
        pause                                                     exists: paused; Pause, or nodepool's: empty
        request-build                                             a wish for a build; Request or empty
        cancel-build                                              ours: a wish that a build ends; Cancellation
        cancel-uploads                                            ours: all wishes that uploads end
        builds                                                    empty
            lock/<contender>                                      claim_image
            <build id>                                            Build
                lock/<contender>                                  claim_build
                providers/<provider>/images                       empty, all three
                    lock/<contender>                              claim_uploads
                    <upload id>                                   Upload; ten digits, by ZooKeeper's sequence
                        lock/<contender>                          claim_upload
    /nodepool/components/builder/<hostname><ten digits>           ephemeral; a daemon, for nodepool's readers

Ours alone:

    /imagepool/installation                                       uuid4 hex: whose tree this is
    /imagepool/daemons/<hostname>-<ten digits>                    ephemeral; Daemon
    /imagepool/lead/<contender>                                   claim_lead; its host name. The first leads
    /imagepool/schedule/<image>                                   {entry: seconds}: last times of the schedule
    /imagepool/frozen                                             exists: nothing begins by itself; Pause
    /imagepool/paused-providers/<provider>                        exists: gets no uploads; Pause
    /imagepool/forgotten/<builder id>                             a builder that is gone for good; Pause
    /imagepool/shares/<provider>/<number>/<contender>             claim_share; numbers from 0 on
    /imagepool/sweeps/<provider>/<contender>                      claim_sweep
    /imagepool/gone/<build id>                                    a build that was removed; its image
    /imagepool/strays/<provider>/<external id>                    Sighting
    /imagepool/history/<image>/<provider>                         which build served when: Turns, newest first

A contender is an ephemeral, sequential `<uuid4 hex>__lock__<ten digits>`. `lock` nodes are made when
first needed and stay. All paths are below the chroot, if there is one.

Every function that takes a name raises ValueError for one that may not become a znode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from sys import intern
from typing import Final

from builder.model import is_build_id, name_problem

IMAGES: Final = "/nodepool/images"
COMPONENTS: Final = "/nodepool/components/builder"
OURS: Final = "/imagepool"
INSTALLATION: Final = "/imagepool/installation"
DAEMONS: Final = "/imagepool/daemons"
LEAD: Final = "/imagepool/lead"
SCHEDULE: Final = "/imagepool/schedule"
FROZEN: Final = "/imagepool/frozen"
PAUSED_PROVIDERS: Final = "/imagepool/paused-providers"
FORGOTTEN: Final = "/imagepool/forgotten"
SHARES: Final = "/imagepool/shares"
SWEEPS: Final = "/imagepool/sweeps"
GONE: Final = "/imagepool/gone"
STRAYS: Final = "/imagepool/strays"
HISTORY: Final = "/imagepool/history"

LOCK: Final = "lock"
_PAUSE: Final = "pause"
_REQUEST: Final = "request-build"
_CANCELLATION: Final = "cancel-build"
_UPLOAD_CANCELLATIONS: Final = "cancel-uploads"
_BUILDS: Final = "builds"
_PROVIDERS: Final = "providers"
_UPLOADS: Final = "images"
_UPLOAD_ID = re.compile(r"[0-9]{10}\Z")
_CONTENDER = re.compile(r"__lock__-?[0-9]{10}\Z")
_INSTALLATION_ID = re.compile(r"[0-9a-f]{32}\Z")


def image(name: str) -> str:
    """The node of an image."""
    return f"{IMAGES}/{_checked(name)}"


def pause(name: str) -> str:
    """The node whose existence pauses an image."""
    return f"{image(name)}/{_PAUSE}"


def request(name: str) -> str:
    """The node whose existence asks for a build of an image."""
    return f"{image(name)}/{_REQUEST}"


def cancellation(name: str) -> str:
    """The node that says which build of an image shall end."""
    return f"{image(name)}/{_CANCELLATION}"


def upload_cancellations(name: str) -> str:
    """The node that says which uploads of an image shall end."""
    return f"{image(name)}/{_UPLOAD_CANCELLATIONS}"


def builds(name: str) -> str:
    """The parent of an image's builds."""
    return f"{image(name)}/{_BUILDS}"


def image_lock(name: str) -> str:
    """The lock of `claim_image`."""
    return f"{builds(name)}/{LOCK}"


def build(image_name: str, build_id: str) -> str:
    """The record of a build."""
    return f"{builds(image_name)}/{_checked_build_id(build_id)}"


def build_lock(image_name: str, build_id: str) -> str:
    """The lock of `claim_build`."""
    return f"{build(image_name, build_id)}/{LOCK}"


def providers(image_name: str, build_id: str) -> str:
    """The parent of the providers a build was uploaded to."""
    return f"{build(image_name, build_id)}/{_PROVIDERS}"


def provider(image_name: str, build_id: str, provider_name: str) -> str:
    """The node of a provider below a build."""
    return f"{providers(image_name, build_id)}/{_checked(provider_name)}"


def uploads(image_name: str, build_id: str, provider_name: str) -> str:
    """The parent of the uploads of a build to a provider."""
    return f"{provider(image_name, build_id, provider_name)}/{_UPLOADS}"


def uploads_lock(image_name: str, build_id: str, provider_name: str) -> str:
    """The lock of `claim_uploads`."""
    return f"{uploads(image_name, build_id, provider_name)}/{LOCK}"


def upload(image_name: str, build_id: str, provider_name: str, upload_id: str) -> str:
    """The record of an upload."""
    if not _UPLOAD_ID.match(upload_id):
        raise ValueError(f"{upload_id!r} is no upload id: 10 digits")
    return f"{uploads(image_name, build_id, provider_name)}/{upload_id}"


def upload_lock(image_name: str, build_id: str, provider_name: str, upload_id: str) -> str:
    """The lock of `claim_upload`."""
    return f"{upload(image_name, build_id, provider_name, upload_id)}/{LOCK}"


def component(hostname: str) -> str:
    """What ZooKeeper's sequence is appended to for nodepool's component record of a daemon."""
    return f"{COMPONENTS}/{_checked(hostname)}"


def daemon(hostname: str) -> str:
    """What ZooKeeper's sequence is appended to for our own record of a daemon."""
    return f"{DAEMONS}/{_checked(hostname)}-"


def ticks(name: str) -> str:
    """What remembers for which times of the schedule builds of an image were asked for."""
    return f"{SCHEDULE}/{_checked(name)}"


def paused_provider(provider_name: str) -> str:
    """The node whose existence pauses uploads to a provider."""
    return f"{PAUSED_PROVIDERS}/{_checked(provider_name)}"


def forgotten(builder_id: str) -> str:
    """The node whose existence says that a builder won't come back."""
    return f"{FORGOTTEN}/{_checked(builder_id)}"


def upload_named(image_name: str, name: str) -> str:
    """The record of the upload of that `Upload.name`."""
    match name.split("/"):
        case [build_id, provider_name, upload_id]:
            return upload(image_name, build_id, provider_name, upload_id)
    raise ValueError(f"{name!r} names no upload: that is <build id>/<provider>/<upload id>")


def share(provider_name: str, number: int) -> str:
    """The lock of one of the shares in a provider."""
    return f"{SHARES}/{_checked(provider_name)}/{number}"


def sweep(provider_name: str) -> str:
    """The lock of `claim_sweep`."""
    return f"{SWEEPS}/{_checked(provider_name)}"


def gone(build_id: str) -> str:
    """What remembers that a build's record was removed."""
    return f"{GONE}/{_checked_build_id(build_id)}"


def strays(provider_name: str) -> str:
    """The parent of a provider's sightings."""
    return f"{STRAYS}/{_checked(provider_name)}"


def stray(provider_name: str, external_id: str) -> str:
    """The sighting of an image in a provider, by the id that the cloud gave it."""
    return f"{strays(provider_name)}/{_checked(external_id)}"


def history(name: str) -> str:
    """The parent of what is known of who served an image, by provider."""
    return f"{HISTORY}/{_checked(name)}"


def turns(image_name: str, provider_name: str) -> str:
    """The turns of the builds of an image in a provider."""
    return f"{history(image_name)}/{_checked(provider_name)}"


def checked_installation(installation_id: str) -> str:
    """The id, if it has the form of one."""
    if not _INSTALLATION_ID.match(installation_id):
        raise ValueError(f"{installation_id!r} is no installation id: 32 hex digits")
    return installation_id


class Kind(Enum):
    """What a node below /nodepool/images or /imagepool is."""

    ROOT = auto()
    IMAGE = auto()
    PAUSE = auto()
    REQUEST = auto()
    CANCELLATION = auto()
    UPLOAD_CANCELLATIONS = auto()
    BUILD = auto()
    UPLOAD = auto()
    PARENT = auto()  #: holds others and says nothing itself
    IMAGE_CONTENDER = auto()
    UPLOADS_CONTENDER = auto()
    TICKS = auto()
    DAEMON = auto()
    CANDIDATE = auto()
    FROZEN = auto()
    INSTALLATION = auto()
    PAUSED_PROVIDER = auto()
    FORGOTTEN = auto()


#: What stands right below an image.
_OF_IMAGE: Final = {
    _PAUSE: Kind.PAUSE,
    _REQUEST: Kind.REQUEST,
    _CANCELLATION: Kind.CANCELLATION,
    _UPLOAD_CANCELLATIONS: Kind.UPLOAD_CANCELLATIONS,
    _BUILDS: Kind.PARENT,
}
#: What stands right below /imagepool, and what is below that.
_OURS: Final = {
    "daemons": Kind.DAEMON,
    "lead": Kind.CANDIDATE,
    "schedule": Kind.TICKS,
    "paused-providers": Kind.PAUSED_PROVIDER,
    "forgotten": Kind.FORGOTTEN,
}
#: Kinds whose data means something.
RECORDS: Final = frozenset(
    {
        Kind.PAUSE,
        Kind.REQUEST,
        Kind.CANCELLATION,
        Kind.UPLOAD_CANCELLATIONS,
        Kind.BUILD,
        Kind.UPLOAD,
        Kind.FROZEN,
        Kind.INSTALLATION,
        *_OURS.values(),
    }
)
#: Kinds that have no node below them worth knowing.
LEAVES: Final = frozenset({*RECORDS, Kind.IMAGE_CONTENDER, Kind.UPLOADS_CONTENDER} - {Kind.BUILD})
#: Kinds that say something by being there.
MARKS: Final = frozenset({Kind.IMAGE, Kind.IMAGE_CONTENDER, Kind.UPLOADS_CONTENDER})
#: Kinds that are there because of uploads: nine nodes of ten.
OF_UPLOADS: Final = frozenset({Kind.UPLOAD, Kind.UPLOADS_CONTENDER})
#: Where what a Snapshot shows begins.
ROOTS: Final = (IMAGES, OURS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a path means: its kind, and the names in it as far as that kind has them."""

    kind: Kind
    image: str = ""
    build_id: str = ""
    provider: str = ""
    upload_id: str = ""
    name: str = ""  #: of a node below one of ours, such as a forgotten builder's id


def place(path: str) -> Place | None:
    """What the node at `path` is; None when it says nothing to a Snapshot (clean-up locks, strange names)."""
    if path in ROOTS:
        return Place(kind=Kind.ROOT)
    if path.startswith(f"{OURS}/"):
        return _place_of_ours(path.removeprefix(f"{OURS}/").split("/"))
    if not path.startswith(f"{IMAGES}/"):
        return None
    # The same names are in thousands of paths, and in the records that are read from there.
    name, *rest = map(intern, path.removeprefix(f"{IMAGES}/").split("/"))
    if name_problem(name):
        return None
    match rest:
        case []:
            return Place(kind=Kind.IMAGE, image=name)
        case [child] if child in _OF_IMAGE:
            return Place(kind=_OF_IMAGE[child], image=name)
        case ["builds", "lock"]:
            return Place(kind=Kind.PARENT, image=name)
        case ["builds", "lock", _]:
            return Place(kind=Kind.IMAGE_CONTENDER, image=name)
        case ["builds", build_id, *below] if is_build_id(build_id):
            return _place_in_build(name, build_id, below)
    return None


def _place_of_ours(rest: list[str]) -> Place | None:
    match rest:
        case ["frozen"]:
            return Place(kind=Kind.FROZEN)
        case ["installation"]:
            return Place(kind=Kind.INSTALLATION)
        case [parent] if parent in _OURS:
            return Place(kind=Kind.PARENT)
        case ["schedule", name] if not name_problem(name):
            return Place(kind=Kind.TICKS, image=name)
        case ["daemons", _]:
            return Place(kind=Kind.DAEMON)
        case ["lead", contender] if _CONTENDER.search(contender):
            # What else may stand there stands in nobody's way: it never lets go.
            return Place(kind=Kind.CANDIDATE)
        case ["paused-providers" | "forgotten" as parent, name] if not name_problem(name):
            return Place(kind=_OURS[parent], name=name)
    return None


def _place_in_build(name: str, build_id: str, rest: list[str]) -> Place | None:
    match rest:
        case []:
            return Place(kind=Kind.BUILD, image=name, build_id=build_id)
        case ["providers"]:
            return Place(kind=Kind.PARENT, image=name, build_id=build_id)
        case ["providers", to, *below] if not name_problem(to):
            return _place_in_provider(name, build_id, to, below)
    return None


def _place_in_provider(name: str, build_id: str, to: str, rest: list[str]) -> Place | None:
    match rest:
        case [] | ["images"] | ["images", "lock"]:
            kind, upload_id = Kind.PARENT, ""
        case ["images", "lock", _]:
            kind, upload_id = Kind.UPLOADS_CONTENDER, ""
        case ["images", number] if _UPLOAD_ID.match(number):
            kind, upload_id = Kind.UPLOAD, number
        case _:
            return None
    return Place(kind=kind, image=name, build_id=build_id, provider=to, upload_id=upload_id)


def _checked(name: str) -> str:
    problem = name_problem(name)
    if problem:
        raise ValueError(problem)
    return name


def _checked_build_id(build_id: str) -> str:
    if not is_build_id(build_id):
        raise ValueError(f"{build_id!r} is no build id: 32 hex digits, or 10 digits")
    return build_id
