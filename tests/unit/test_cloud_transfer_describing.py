"""What images in a cloud tell is changed where it has to be, on nothing but what is provably ours."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.cloud import transfer
from builder.cloud.base import Change
from builder.cloudimage import RAW_SHA256, RAW_SIZE, WITHHELD, CloudImage
from builder.errors import CloudError, RefusedError
from builder.model import BuildState, Withholding
from builder.withheldmark import from_text
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import INSTALLATION, NOW, Attempt, build, content, record


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def ready(cloud: FakeCloud, tmp_path: Path) -> CloudImage:
    """An image that was uploaded well."""
    return Attempt(cloud, tmp_path / "noble.qcow2", content(1000)).run()


def hide(cloud: FakeCloud, **changes: Any) -> None:
    transfer.hide(cloud, record(**changes), installation_id=INSTALLATION)


def show(cloud: FakeCloud, **changes: Any) -> None:
    transfer.show(cloud, record(**changes), installation_id=INSTALLATION)


# -- hiding --------------------------------------------------------------------------------------


def test_an_image_that_can_not_go_yet_is_hidden(cloud: FakeCloud, ready: CloudImage) -> None:
    hide(cloud, external_id=ready.id)

    assert cloud.images[ready.id] == replace(ready, hidden=True)
    hide(cloud, external_id=ready.id)
    assert cloud.count("update") == 1


def test_it_is_shown_again(cloud: FakeCloud, ready: CloudImage) -> None:
    hide(cloud, external_id=ready.id)
    show(cloud, external_id=ready.id)
    show(cloud, external_id=ready.id)

    assert (cloud.images[ready.id], cloud.count("update")) == (ready, 2)


def test_hiding_what_is_gone_is_no_error(cloud: FakeCloud) -> None:
    hide(cloud, external_id="gone-1")
    show(cloud, external_id="gone-1")
    hide(cloud)

    assert cloud.count("update") == 0


# -- what becomes known of a build later -----------------------------------------------------------


def facts(cloud: FakeCloud, ready: CloudImage, **changes: Any) -> None:
    upload = record(external_id=ready.id)
    transfer.add_build_facts(cloud, upload, build(**changes), installation_id=INSTALLATION)


def test_an_upload_of_a_build_that_went_on_learns_its_facts_in_the_end(
    cloud: FakeCloud, ready: CloudImage
) -> None:
    unknown = (RAW_SHA256, RAW_SIZE, "imagepool_build_ready")
    early = {name: value for name, value in ready.properties.items() if name not in unknown}
    cloud.change(ready.id, properties=early)

    facts(cloud, ready, state=BuildState.BUILDING, ended=None, raw_sha256=None, raw_size=None)
    assert cloud.images[ready.id].properties == early

    facts(cloud, ready)
    assert cloud.images[ready.id] == ready


def test_facts_that_are_known_already_cost_no_change(cloud: FakeCloud, ready: CloudImage) -> None:
    facts(cloud, ready)

    assert cloud.count("update") == 0


def test_facts_go_to_no_image_that_is_gone_or_not_ours(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, properties={"whose": "not ours"})
    with pytest.raises(RefusedError):
        facts(cloud, ready)

    cloud.images.clear()
    with pytest.raises(CloudError, match="is gone"):
        facts(cloud, ready)


# -- whose builds are withheld -------------------------------------------------------------------------

WORD = Withholding(provider=None, by="ann", time=NOW, why="no SSH server")


def tell(cloud: FakeCloud, ready: CloudImage, word: Withholding | None) -> str:
    """What the image says then."""
    transfer.tell_withheld(cloud, record(external_id=ready.id), word, installation_id=INSTALLATION)
    return cloud.images[ready.id].properties.get(WITHHELD, "")


def test_an_image_tells_that_its_build_is_withheld_until_that_is_over(
    cloud: FakeCloud, ready: CloudImage
) -> None:
    said = tell(cloud, ready, WORD)
    told = from_text(said, "north")
    assert told is not None and (told.provider, told.time, told.why) == (None, NOW, WORD.why)
    assert "ann" not in said  # the clouds need not know names

    assert tell(cloud, ready, replace(WORD, time=NOW + timedelta(hours=1))) != said
    assert tell(cloud, ready, None) == ""


def test_what_it_tells_already_costs_no_change(cloud: FakeCloud, ready: CloudImage) -> None:
    tell(cloud, ready, None)
    tell(cloud, ready, WORD)
    tell(cloud, ready, WORD)

    assert cloud.count("update") == 1


def test_a_cloud_that_does_not_keep_it_is_not_believed(ready: CloudImage, cloud: FakeCloud) -> None:
    class Forgetful(FakeCloud):
        def update(self, image_id: str, change: Change) -> CloudImage:
            return self.images[image_id]

    forgetful = Forgetful()
    forgetful.images = cloud.images
    with pytest.raises(CloudError, match=WITHHELD):
        tell(forgetful, ready, WORD)


def test_no_image_that_is_gone_or_not_ours_is_told(cloud: FakeCloud, ready: CloudImage) -> None:
    cloud.change(ready.id, properties={"whose": "not ours"})
    with pytest.raises(RefusedError):
        tell(cloud, ready, WORD)

    cloud.images.clear()
    with pytest.raises(CloudError, match="is gone"):
        tell(cloud, ready, WORD)
