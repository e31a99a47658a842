"""Where every record, lock and marker lives in ZooKeeper.

nodepool 11's tree, node for node. Of our own there is one node right below an image: deeper, nodepool's
readers take whatever they find for a build or an upload.

    /nodepool/images/<image>                                      empty
        pause                                                     empty; exists: paused
        request-build                                             a wish for a build; Request or empty
        cancel-build                                              ours: a wish that a build ends; Cancellation
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
    /imagepool/daemons/<hostname>-<ten digits>                    ephemeral; a daemon: roles, version, start

A contender is an ephemeral, sequential `<uuid4 hex>__lock__<ten digits>`. `lock` nodes are made when
first needed and stay. All paths are below the chroot, if there is one.

Every function that takes a name raises ValueError for one that may not become a znode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from builder.model import is_build_id, name_problem

IMAGES: Final = "/nodepool/images"
COMPONENTS: Final = "/nodepool/components/builder"
INSTALLATION: Final = "/imagepool/installation"
DAEMONS: Final = "/imagepool/daemons"

LOCK: Final = "lock"
_PAUSE: Final = "pause"
_REQUEST: Final = "request-build"
_CANCELLATION: Final = "cancel-build"
_BUILDS: Final = "builds"
_PROVIDERS: Final = "providers"
_UPLOADS: Final = "images"
_UPLOAD_ID = re.compile(r"[0-9]{10}\Z")


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


def builds(name: str) -> str:
    """The parent of an image's builds."""
    return f"{image(name)}/{_BUILDS}"


def image_lock(name: str) -> str:
    """The lock of `claim_image`."""
    return f"{builds(name)}/{LOCK}"


def build(image_name: str, build_id: str) -> str:
    """The record of a build."""
    if not is_build_id(build_id):
        raise ValueError(f"{build_id!r} is no build id: 32 hex digits, or 10 digits")
    return f"{builds(image_name)}/{build_id}"


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


class Kind(Enum):
    """What a node below /nodepool/images is."""

    ROOT = auto()
    IMAGE = auto()
    PAUSE = auto()
    REQUEST = auto()
    CANCELLATION = auto()
    BUILD = auto()
    UPLOAD = auto()
    PARENT = auto()  #: holds others and says nothing itself
    IMAGE_CONTENDER = auto()
    UPLOADS_CONTENDER = auto()


#: What stands right below an image.
_OF_IMAGE: Final = {
    _PAUSE: Kind.PAUSE,
    _REQUEST: Kind.REQUEST,
    _CANCELLATION: Kind.CANCELLATION,
    _BUILDS: Kind.PARENT,
}
#: Kinds whose data means something.
RECORDS: Final = frozenset({Kind.REQUEST, Kind.CANCELLATION, Kind.BUILD, Kind.UPLOAD})
#: Kinds that have no node below them worth knowing.
LEAVES: Final = frozenset(
    {
        Kind.PAUSE,
        Kind.REQUEST,
        Kind.CANCELLATION,
        Kind.UPLOAD,
        Kind.IMAGE_CONTENDER,
        Kind.UPLOADS_CONTENDER,
    }
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a path means: its kind, and the names in it as far as that kind has them."""

    kind: Kind
    image: str = ""
    build_id: str = ""
    provider: str = ""
    upload_id: str = ""


def place(path: str) -> Place | None:
    """What the node at `path` is; None when it says nothing to a Snapshot (clean-up locks, strange names)."""
    if path == IMAGES:
        return Place(kind=Kind.ROOT)
    if not path.startswith(f"{IMAGES}/"):
        return None
    name, *rest = path.removeprefix(f"{IMAGES}/").split("/")
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
