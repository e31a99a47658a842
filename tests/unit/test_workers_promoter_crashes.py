"""A promoter dies before or after each thing it asks of its store and its cloud: a region is never without an
image to boot, and the next life makes record, cloud and nodepool's sense agree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from builder.cloudimage import SERVING, WITHHELD, CloudImage
from builder.model import Upload, UploadState, Withholding
from builder.planning.promotion import SETTLED
from builder.withheldmark import from_text
from builder.workers.promoter import Promoter
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore, FakeTree
from tests.unit.mortal_world import Fate, Killed, MortalCloud, MortalStore
from tests.unit.test_workers_promoter import NAME, TAG, behind, ready, taken
from tests.unit.worker_world import NOW, Stage

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

ANN = Withholding(provider=None, by="ann", time=NOW, why="it has no network")
#: With a stable name and tag and what is old hidden, and with nothing but nodepool's sense.
KINDS = pytest.mark.parametrize("named", [True, False], ids=["named", "plain"])


@dataclass
class Region:
    """One provider with two builds, of which one serves, and a promoter that may die."""

    root: Path
    named: bool
    tree: FakeTree = field(default_factory=FakeTree)
    cloud: FakeCloud = field(default_factory=FakeCloud)
    lives: int = 0
    without: list[str] = field(default_factory=list)  #: moments at which there was nothing to boot

    def __post_init__(self) -> None:
        self.outside = FakeStore(self.tree)
        stage = self.begin(Fate())
        self.first = ready(stage, 1)
        work(stage)
        self.second = behind(stage, ready(stage, 2))

    def begin(self, fate: Fate) -> Stage:
        """A new life of the daemon, a minute later."""
        self.lives += 1
        clouds: dict[str, FakeCloud] = {"one": MortalCloud(fate, self.cloud)}
        store = MortalStore(self.tree, fate)
        stage = Stage(self.root, store=store, clouds=clouds, now=NOW + self.lives * SETTLED)
        if self.named:
            stage.image(stable_name=NAME, stable_tag=TAG, hide_old=True)
        self.look()
        fate.on_moment = self.look
        return stage

    # -- what there is ------------------------------------------------------------------------

    def look(self) -> None:
        """Whoever boots now finds an image, by its name as by nodepool's launcher."""
        uploads = [u for u in self.tree.uploads.values() if u.state is UploadState.READY]
        if not any(upload.serving for upload in uploads):
            return  # nothing was in service yet
        picked = self.cloud.images[str(max(uploads, key=lambda u: u.state_time).external_id)]
        by_name = [image for image in self.cloud.images.values() if image.name == NAME and not image.hidden]
        if picked.hidden and picked.name != NAME:
            self.without.append(f"nodepool takes {picked.name}, which is hidden")
        if self.named and not by_name:
            self.without.append(f"nobody is called {NAME}")

    def image(self, of: Upload) -> CloudImage:
        return self.cloud.images[str(of.external_id)]

    def record(self, of: Upload) -> Upload:
        return self.outside.get_upload(of.image, of.build_id, of.provider, of.id)

    def check(self, heir: Upload, other: Upload, *, withheld: bool) -> None:
        """Record, cloud, nodepool's sense and history agree that the heir serves."""
        stage = Stage(self.root, store=self.outside, clouds={"one": self.cloud})
        assert self.without == []
        assert taken(stage) == heir.name
        served = [self.record(each).serving is not None for each in (heir, other)]
        assert served == [True, False]
        images = (self.image(heir), self.image(other))
        if self.named:
            assert [image.name == NAME for image in images] == [True, False]
            assert [TAG in image.tags for image in images] == [True, False]
            assert [image.properties.get(SERVING) == image.id for image in images] == [True, False]
            assert [image.hidden for image in images] == [False, True]
        assert [self.record(each).hidden for each in (heir, other)] == [image.hidden for image in images]
        self.check_history(heir)
        told = from_text(images[1].properties.get(WITHHELD, ""), "one")
        assert (told is not None) is withheld
        assert (self.record(other).withheld is not None) is withheld
        assert not images[0].properties.get(WITHHELD) and self.record(heir).withheld is None
        assert self.tree.claims == {}

    def check_history(self, heir: Upload) -> None:
        """Every turn is over but the heir's, and each ended when the next began."""
        turns = self.outside.history("img")["one"]
        assert [turn.upload for turn in turns if turn.until is None] == [heir.name]
        assert turns[0].upload == heir.name
        assert [turn.until for turn in turns[1:]] == [turn.since for turn in turns[:-1]]
        assert all(before.upload != after.upload for after, before in pairwise(turns))


def work(stage: Stage) -> None:
    """A promoter that has just started, until nothing is due or it dies."""
    promoter, did = Promoter(stage.world, "promoter"), True
    while did:
        promoter.step()
        did = promoter.drain()


def promoted(region: Region) -> None:
    """The second build serves."""
    work(region.begin(Fate()))


def rolled_back(region: Region) -> None:
    promoted(region)
    region.outside.withhold("img", region.second.build_id, ANN)
    work(region.begin(Fate()))


def forward(region: Region) -> None:
    """The second build is ready, and may serve."""


def back(region: Region) -> None:
    """The second build serves and is put in quarantine."""
    promoted(region)
    region.outside.withhold("img", region.second.build_id, ANN)


def forward_again(region: Region) -> None:
    """The second build comes out of quarantine."""
    rolled_back(region)
    region.outside.release("img", region.second.build_id, None)


def moments_of(region: Region) -> int:
    """How many it takes when nobody dies."""
    fate = Fate()
    stage = region.begin(fate)
    fate.doom(0)
    work(stage)
    return fate.moments


@KINDS
@pytest.mark.parametrize("prepare", [forward, back, forward_again], ids=["promotion", "rollback", "release"])
def test_killed_at_any_moment_the_next_life_lets_one_serve_everywhere(
    tmp_path: Path, named: bool, prepare: Callable[[Region], None]
) -> None:
    whole = Region(tmp_path / "whole", named)
    prepare(whole)
    moments = moments_of(whole)
    died = 0
    for moment in range(1, moments + 1):
        region = Region(tmp_path / str(moment), named)
        prepare(region)
        doomed = Fate()
        stage = region.begin(doomed)
        doomed.doom(moment)
        try:
            work(stage)
        except Killed:
            died += 1
        FakeStore.close(stage.store)
        work(region.begin(Fate()))
        heir, other = (region.first, region.second) if prepare is back else (region.second, region.first)
        region.check(heir, other, withheld=prepare is back)
    assert died == moments > 20


def test_killed_in_a_rollback_that_is_taken_back_the_next_life_leaves_one_serving_as_before(
    tmp_path: Path,
) -> None:
    """Else two images have the name, and who boots by it is refused, until the next build is ready."""
    whole = Region(tmp_path / "whole", named=True)
    back(whole)
    moments = moments_of(whole)
    for moment in range(1, moments + 1):
        region = Region(tmp_path / str(moment), named=True)
        back(region)
        doomed = Fate()
        stage = region.begin(doomed)
        doomed.doom(moment)
        with suppress(Killed):
            work(stage)
        FakeStore.close(stage.store)
        region.outside.release("img", region.second.build_id, None)
        work(region.begin(Fate()))
        region.check(region.second, region.first, withheld=False)
