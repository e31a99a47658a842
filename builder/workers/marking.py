"""Tells one image in its cloud that its build is withheld, or that it no longer is.

The image comes first, then its record, so that a crash between leaves a record that says what is still to
do: the next pass finds the image right, and writes it. Before an image tells the first word, its record says
that it may (UNKNOWN), so that the image is asked although that word is taken back meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from builder.cloud import transfer
from builder.config.model import Config
from builder.model import UploadState
from builder.planning.marking import Marking, markings_of
from builder.workers.base import World
from builder.workers.reading import fresh_records

#: `Upload.withheld` of an image of which nobody knows what it tells: the time of no word.
UNKNOWN: Final = datetime(1970, 1, 1, second=1, tzinfo=UTC)


def mark(world: World, config: Config, marking: Marking) -> bool:
    """Do it, if it is still due; whether it was, and nobody else was at it. Raises what stood in the way."""
    upload, store = marking.upload, world.store
    claim = store.claim_upload(upload)
    if claim is None:
        return False
    with claim:
        fresh = fresh_records(store, config, upload.image, provider=upload.provider)
        again = next((each for each in markings_of(config, fresh) if each.upload.name == upload.name), None)
        if again is None:
            return False
        current = store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
        if current.state is not UploadState.READY:
            return False
        if current.withheld is None:
            current = store.update_upload(replace(current, withheld=UNKNOWN))
        transfer.tell_withheld(
            world.cloud(config.providers[upload.provider]),
            current,
            again.word,
            installation_id=world.identity.installation_id,
        )
        store.update_upload(replace(current, withheld=None if again.word is None else again.word.time))
        return True
