"""Find the build or upload somebody means by what they typed; pure.

A build is named by any unique beginning of its id, or by nodepool's `<image>-<build id>`. An upload
is named `<build>/<provider>/<number>` as `upload list` shows it; each part may be shortened and the
last ones left out as long as one upload fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from builder.errors import NotFoundError
from builder.model import Build, Snapshot, Upload, UploadState

Record = TypeVar("Record", Build, Upload)

#: How many candidates an ambiguous name lists.
SHOWN_CANDIDATES: Final = 10


def image_name(snapshot: Snapshot, configured: Sequence[str], name: str) -> str:
    """`name`, when the configuration or the store knows such an image; else NotFoundError."""
    known = sorted({*configured, *snapshot.images})
    if name in known:
        return name
    hint = f"There is: {_some(known)}." if known else "No diskimage is configured."
    raise NotFoundError(f"there is no image {name!r}", hint=hint)


def provider_name(snapshot: Snapshot, configured: Sequence[str], name: str) -> str:
    """`name`, when the configuration knows such a provider, an upload went to one or somebody paused it;
    else NotFoundError."""
    known = sorted({*configured, *(u.provider for u in snapshot.uploads()), *snapshot.paused_providers})
    if name in known:
        return name
    hint = f"There is: {_some(known)}." if known else "No provider is configured."
    raise NotFoundError(f"there is no provider {name!r}", hint=hint)


def build(snapshot: Snapshot, name: str, *, image: str | None = None) -> Build:
    """The build of that id, unique beginning of an id, or `<image>-<id>`; else NotFoundError. With `image`
    it is one of that image's."""
    found = _builds_called(tuple(snapshot.builds()), name)
    ours = [b for b in found if image in (None, b.image)]
    if found and not ours:
        raise NotFoundError(
            f"{name!r} is a build of {found[0].image}, not of {image}",
            hint=f"'imagepool build list --image {image}' shows those.",
        )
    return _only(ours, [b.id for b in ours], name, "build", "Type more of the id.")


def upload(
    snapshot: Snapshot, name: str, *, rather: UploadState | None = None, newest: bool = False
) -> Upload:
    """The upload of that name, shortened or not; else NotFoundError.

    Of several, only those in the state `rather` are meant, where there are any; with `newest`, of several
    tries of one build in one provider the last.
    """
    found = _uploads_called(tuple(snapshot.uploads()), name)
    found = [u for u in found if u.state is rather] or found
    if newest and len({(u.build_id, u.provider) for u in found}) == 1:
        found = [max(found, key=lambda u: u.id)]
    hint = "Type more of the id: BUILD/PROVIDER/NUMBER."
    return _only(found, [u.name for u in found], name, "upload", hint)


def _only(found: Sequence[Record], ids: Sequence[str], name: str, kind: str, hint: str) -> Record:
    """The one record that was found; NotFoundError when there are several, with `hint`, or none."""
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(f"{name!r} fits {len(found)} {kind}s: {_some(ids)}", hint=hint)
    raise NotFoundError(f"there is no {kind} {name!r}", hint=f"'imagepool {kind} list' shows all {kind}s.")


def _builds_called(builds: Sequence[Build], name: str) -> list[Build]:
    if not name:
        return []
    exact = [b for b in builds if name in (b.id, f"{b.image}-{b.id}")]
    return exact or [b for b in builds if b.id.startswith(name) or _is_long_id(b.image, b.id, name)]


def _is_long_id(image: str, build_id: str, name: str) -> bool:
    """Whether `name` is `<image>-<beginning of the id>`, with at least one digit of the id."""
    return len(name) > len(image) + 1 and f"{image}-{build_id}".startswith(name)


def _uploads_called(uploads: Sequence[Upload], name: str) -> list[Upload]:
    build_part, _, rest = name.partition("/")
    provider, _, number = rest.partition("/")
    if not build_part:
        return []
    found = [
        u
        for u in uploads
        if u.build_id.startswith(build_part) or _is_long_id(u.image, u.build_id, build_part)
    ]
    if provider:
        exact = [u for u in found if u.provider == provider]
        found = exact or [u for u in found if u.provider.startswith(provider)]
    if number:
        # "0000000003" may be typed as "3".
        found = [u for u in found if u.id.lstrip("0") == number.lstrip("0")]
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_CANDIDATES])
    return f"{shown} and {len(names) - SHOWN_CANDIDATES} more" if len(names) > SHOWN_CANDIDATES else shown
