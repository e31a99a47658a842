"""What was decided on breakers and uploads, and for how long that holds: the memory of a Planner.

Each decision is remembered with what it was made of. It is made anew when any of that is another,
or when the time has come at which it says itself that it may be another.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from types import MappingProxyType
from typing import Final

from builder.config.model import BreakerPolicy, Config, DiskImage, Provider
from builder.model import ImageRecords, Pause, Snapshot
from builder.planning.actions import Breaker, BreakerState, UploadDecision, Verdict
from builder.planning.breakers import Testimony, judge, testimonies
from builder.planning.probes import one_probe_each
from builder.planning.uploads import There, age, by_provider, decide_upload, with_uploads
from builder.ways import Capabilities

_FOREVER: Final = datetime.max.replace(tzinfo=UTC)


# -- breakers -------------------------------------------------------------------------------------


class RememberedBreakers:
    """The breakers of all providers; one is judged anew when the records say something else of it."""

    def __init__(self) -> None:
        self._policy: BreakerPolicy | None = None
        self._said: dict[str, tuple[ImageRecords, Mapping[str, Testimony]]] = {}  #: by image
        self._heard: defaultdict[str, dict[str, Testimony]] = defaultdict(dict)  #: by provider, then image
        self._known: dict[str, Breaker] = {}

    def known(self, config: Config, snapshot: Snapshot, now: datetime) -> Mapping[str, Breaker]:
        """What `breakers` says."""
        policy = config.upload_breaker
        if policy != self._policy:
            self._policy = policy
            self._known.clear()
        self._listen(snapshot)
        for name in config.providers:
            known = self._known.get(name)
            if known is None or not _holds(known, now):
                self._known[name] = judge(name, self._heard[name].values(), policy, now)
        return MappingProxyType({name: self._known[name] for name in config.providers})

    def _listen(self, snapshot: Snapshot) -> None:
        """Take in what the records say now, and forget the breakers of which they say something else."""
        for image, records in snapshot.images.items():
            before, said = self._said.get(image, (None, {}))
            if before is not records:
                self._said[image] = records, self._hear(image, said, testimonies(records))
        for image in self._said.keys() - snapshot.images.keys():
            self._hear(image, self._said.pop(image)[1], {})

    def _hear(
        self, image: str, before: Mapping[str, Testimony], after: Mapping[str, Testimony]
    ) -> Mapping[str, Testimony]:
        for provider in before.keys() | after.keys():
            if before.get(provider) != after.get(provider):
                self._heard[provider].pop(image, None)
                if provider in after:
                    self._heard[provider][image] = after[provider]
                self._known.pop(provider, None)
        return after


def _holds(breaker: Breaker, now: datetime) -> bool:
    """Whether it is too early, or late enough, for what a breaker is."""
    return breaker.until is None or (breaker.until <= now) is (breaker.state is BreakerState.HALF_OPEN)


# -- uploads --------------------------------------------------------------------------------------

#: An upload's place among those that wait for their provider: the age of what is in service there, and
#: the positions of its diskimage and provider in the configuration, which settle ties.
_Waiting = tuple[datetime, int, int, UploadDecision]


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What decisions on one provider are made of, besides the records and the configuration."""

    breaker: Breaker
    capabilities: Capabilities | None
    pause: Pause | None

    def differ(self, other: Circumstances | None) -> bool:
        """Whether decisions may come out another way."""
        if other is None or self.pause != other.pause or self.capabilities != other.capabilities:
            return True
        # How many failures in a row a closed one has seen is nobody's reason.
        closed = self.breaker.state is other.breaker.state is BreakerState.CLOSED
        return not closed and self.breaker != other.breaker


@dataclass(kw_only=True)
class _Image:
    """A diskimage, what its records were, and what was decided on them for each provider that lists it."""

    image: DiskImage
    position: int
    providers: Mapping[str, tuple[int, Provider]]  #: and their positions
    records: ImageRecords | None = None
    none: ImageRecords
    there: Mapping[str, There] = field(default_factory=dict)
    decided: dict[str, UploadDecision] = field(default_factory=dict)
    until: dict[str, datetime] = field(default_factory=dict)  #: when that is to be decided anew
    horizon: datetime = _FOREVER  #: the first of those
    due: datetime | None = None  #: of the first decision that is LATER
    probes: tuple[UploadDecision, ...] = ()  #: which may be NOW

    def learn(self, records: ImageRecords | None) -> set[str]:
        """Take in other records; the providers of which they say something else."""
        before, before_there = self.none, self.there
        self.none, self.there = by_provider(records or ImageRecords(name=self.image.name))
        self.records = records
        if self.none != before:
            return set(self.providers)
        return {name for name in self.providers if self.there.get(name) != before_there.get(name)}

    def expired(self, now: datetime) -> set[str]:
        """The providers for which it has to be decided anew at that time."""
        return {name for name, until in self.until.items() if until <= now} if self.horizon <= now else set()

    def sum_up(self) -> None:
        """Tell of all decisions what is asked of all."""
        self.horizon = min(self.until.values(), default=_FOREVER)
        later = (d.due for d in self.decided.values() if d.verdict is Verdict.LATER and d.due)
        self.due = min(later, default=None)
        self.probes = tuple(d for d in self.decided.values() if d.probe and d.verdict is Verdict.NOW)


class RememberedUploads:
    """The decisions on all uploads, before single probes are picked; and who waits for which provider."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._halted: tuple[Pause | None, Mapping[str, Pause]] = (None, {})
        self._now = _FOREVER
        self._images: dict[str, _Image] = {}
        self._circumstances: dict[str, Circumstances] = {}
        self._waiting: defaultdict[tuple[str | None, str], list[_Waiting]] = defaultdict(list)
        self._turns: Counter[str] = Counter()  #: uploads that run, by provider

    def refresh(
        self, config: Config, snapshot: Snapshot, now: datetime, circumstances: Mapping[str, Circumstances]
    ) -> None:
        """Decide anew what may come out another way than at the last time."""
        same = config is self._config and (snapshot.frozen, snapshot.forgotten) == self._halted
        # Nothing tells what was LATER at a time before.
        if not same or now < self._now:
            self._begin_anew(config)
        self._config, self._halted, self._now = config, (snapshot.frozen, snapshot.forgotten), now
        stale = self._affected(circumstances)
        for name, image in self._images.items():
            again = stale.get(name, set()) | image.expired(now)
            records = snapshot.images.get(name)
            if records is not image.records:
                again |= image.learn(records)
            if again:
                self._decide(image, again, snapshot, config, now)

    def images(self) -> Iterable[_Image]:
        """All diskimages, in the order of the configuration."""
        return self._images.values()

    def waiting(self, builder_id: str) -> Iterator[tuple[int, list[_Waiting]]]:
        """Those that are NOW and whose files are that builder's, the most urgent first, each provider's by
        themselves, and how many run there."""
        for (holder, provider), queue in self._waiting.items():
            if holder == builder_id and queue:
                yield self._turns[provider], queue

    def _begin_anew(self, config: Config) -> None:
        self._waiting.clear()
        self._turns.clear()
        self._circumstances.clear()
        positions = {name: position for position, name in enumerate(config.providers)}
        self._images = {
            image.name: _Image(
                image=image,
                position=position,
                providers={p.name: (positions[p.name], p) for p in config.providers_of(image.name)},
                none=ImageRecords(name=image.name),
            )
            for position, image in enumerate(config.diskimages.values())
        }

    def _affected(self, circumstances: Mapping[str, Circumstances]) -> dict[str, set[str]]:
        """The providers that are not what they were, by the diskimages they list."""
        affected: defaultdict[str, set[str]] = defaultdict(set)
        changed = {name for name, each in circumstances.items() if each.differ(self._circumstances.get(name))}
        self._circumstances = dict(circumstances)
        if changed:
            for name, image in self._images.items():
                affected[name] = changed & image.providers.keys()
        return affected

    def _decide(
        self, image: _Image, providers: set[str], snapshot: Snapshot, config: Config, now: datetime
    ) -> None:
        for name in (name for name in image.providers if name in providers):
            circumstances = self._circumstances[name]
            decision = decide_upload(
                image.image,
                image.providers[name][1],
                with_uploads(image.none, image.there.get(name)),
                config,
                now,
                breaker=circumstances.breaker,
                capabilities=circumstances.capabilities,
                frozen=snapshot.frozen,
                pause=circumstances.pause,
                forgotten=snapshot.forgotten,
            )
            image.until[name] = _until(decision, now)
            before = image.decided.get(name)
            if decision != before:
                self._count(image, before, -1)
                self._count(image, decision, 1)
                image.decided[name] = decision
        image.sum_up()

    def _count(self, image: _Image, decision: UploadDecision | None, by: int) -> None:
        """Note who runs, and who waits for a provider; or, with -1, no longer does."""
        if decision is None:
            return
        if decision.verdict is Verdict.RUNNING:
            self._turns[decision.provider] += by
        elif decision.verdict is Verdict.NOW and not decision.probe and decision.build is not None:
            queue = self._waiting[decision.build.builder_id, decision.provider]
            entry = _place(image, decision)
            if by > 0:
                insort(queue, entry)
            else:
                del queue[bisect_left(queue, entry[:3], key=lambda each: each[:3])]

    def place(self, decision: UploadDecision) -> _Waiting:
        """A decision's place among those that wait for its provider."""
        return _place(self._images[decision.image], decision)

    def turns(self, provider: str) -> int:
        """How many uploads to a provider run."""
        return self._turns[provider]


def _place(image: _Image, decision: UploadDecision) -> _Waiting:
    return age(decision), image.position, image.providers[decision.provider][0], decision


def _until(decision: UploadDecision, now: datetime) -> datetime:
    """Until when a decision stays what it is, if nothing changes but the time."""
    if decision.due is None:
        return _FOREVER
    if decision.verdict is Verdict.LATER:
        return decision.due
    # What is due since this very moment may have been made so of a time that is still to come.
    return now if decision.due >= now else _FOREVER


# -- a plan ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """The decisions of one pass; good until the Planner is asked for the next one."""

    breakers: Mapping[str, Breaker]
    due: datetime | None  #: of the first decision that is LATER
    _memory: RememberedUploads
    _probes: Mapping[tuple[str, str], UploadDecision]  #: what became of those that may be probes

    @classmethod
    def make(
        cls, memory: RememberedUploads, breakers: Mapping[str, Breaker], policy: BreakerPolicy, now: datetime
    ) -> UploadPlan:
        """A plan of what is remembered, with at most one probe for each provider."""
        rivals = [decision for image in memory.images() for decision in image.probes]
        settled = one_probe_each(rivals, breakers, policy, now)
        dues = [image.due for image in memory.images()]
        dues += [decision.due for decision in settled if decision.verdict is Verdict.LATER]
        return cls(
            breakers=breakers,
            due=min((due for due in dues if due is not None), default=None),
            _memory=memory,
            _probes={(decision.image, decision.provider): decision for decision in settled},
        )

    def decisions(self) -> tuple[UploadDecision, ...]:
        """All of them, in the order of the configuration."""
        if not self._probes:
            return tuple(chain.from_iterable(image.decided.values() for image in self._memory.images()))
        return tuple(
            self._probes.get((decision.image, decision.provider), decision) if image.probes else decision
            for image in self._memory.images()
            for decision in image.decided.values()
        )

    def claimable(
        self, builder_id: str, is_full: Callable[[str], bool] = lambda provider: False
    ) -> Iterator[UploadDecision]:
        """What the machine that holds files under `builder_id` can upload now, probes included, in a fair
        order, at the cost of as many as are taken.

        Providers take turns, and each upload that runs to one has been a turn of it, so a provider that
        takes several at a time comes again only after those that have none. Each provider brings forward
        the image that is missing or oldest there, and so does each turn. Whoever finds a provider's shares
        taken goes on with the next: nothing in this order waits for what stands before it.

        `is_full`: whether a provider takes no more for now; then the others that wait for it are left out.
        """
        queues = list(self._memory.waiting(builder_id))
        for decision in self._probes.values():
            mine = decision.build is not None and decision.build.builder_id == builder_id
            if mine and decision.verdict is Verdict.NOW:
                queues.append((self._memory.turns(decision.provider), [self._memory.place(decision)]))
        heads = [(turn, queue[0][:3], number, 0) for number, (turn, queue) in enumerate(queues)]
        heapq.heapify(heads)
        while heads:
            turn, _, number, index = heads[0]
            queue = queues[number][1]
            decision = queue[index][3]
            if not is_full(decision.provider):
                yield decision
            if index + 1 < len(queue) and not is_full(decision.provider):
                heapq.heapreplace(heads, (turn + 1, queue[index + 1][:3], number, index + 1))
            else:
                heapq.heappop(heads)
