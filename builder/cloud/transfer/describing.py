"""Changes what is told of an upload's images in a cloud, after proving that they are the upload's.

Every function raises RefusedError when an image on record is not provably ours, and what the cloud raises;
what is as it should be already is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from builder.cloud import ownership
from builder.cloud.base import Change, Cloud
from builder.cloud.transfer.removal import existing, prove
from builder.cloudimage import WITHHELD, CloudImage
from builder.errors import CloudError, NotFoundError
from builder.model import Build, FailureClass, Upload, Withholding
from builder.withheldmark import to_text


def hide(cloud: Cloud, upload: Upload, *, installation_id: str) -> None:
    """Take an upload's image and its parts out of Glance's default lists (`os_hidden`): nobody boots from
    it by accident any more, and servers that use it can still be rebuilt. What is gone is left so."""
    _set_hidden(cloud, upload, True, installation_id)


def show(cloud: Cloud, upload: Upload, *, installation_id: str) -> None:
    """Put an upload's image and its parts into Glance's default lists again. What is gone is left so."""
    _set_hidden(cloud, upload, False, installation_id)


def _set_hidden(cloud: Cloud, upload: Upload, hidden: bool, installation_id: str) -> None:
    for image_id in upload.external_ids:
        image = existing(cloud, image_id)
        if image is None:
            continue
        prove(image, upload, installation_id)
        if image.hidden is not hidden:
            # It may go just now, and then it is as good as hidden.
            with suppress(NotFoundError):
                cloud.update(image.id, Change(hidden=hidden))


def add_build_facts(cloud: Cloud, upload: Upload, build: Build, *, installation_id: str) -> None:
    """Give an upload's image the properties of its build that were not known when it was created:
    the build may have been going on. CloudError when the image is gone, or the cloud keeps others."""
    _set_properties(cloud, upload, ownership.build_facts(build), installation_id)


def tell_withheld(cloud: Cloud, upload: Upload, word: Withholding | None, *, installation_id: str) -> None:
    """Let an upload's image say that its build is withheld, or, with None, that it is not. CloudError as
    above."""
    said = "" if word is None else to_text(word)
    _set_properties(cloud, upload, {WITHHELD: said}, installation_id)


def _set_properties(cloud: Cloud, upload: Upload, wanted: Mapping[str, str], installation_id: str) -> None:
    gone = CloudError(f"image {upload.external_id} is gone", failure_class=FailureClass.CLOUD)
    image = None if upload.external_id is None else existing(cloud, upload.external_id)
    if image is None:
        raise gone
    if not _differing(image, wanted):
        return
    prove(image, upload, installation_id)
    try:
        changed = cloud.update(image.id, Change(properties=wanted))
    except NotFoundError:
        raise gone from None
    if wrong := _differing(changed, wanted):
        raise CloudError(
            f"image {image.id}: the cloud did not keep {', '.join(wrong)}", failure_class=FailureClass.CLOUD
        )


def _differing(image: CloudImage, wanted: Mapping[str, str]) -> list[str]:
    """The properties that an image has not; one that is not there is as good as an empty one."""
    return [name for name, value in wanted.items() if image.properties.get(name, "") != value]
