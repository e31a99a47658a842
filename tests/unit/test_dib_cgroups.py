"""Limits by cgroups: where a group can be made, why not where it can't, and what goes into it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import BuildLimits
from builder.dib.isolation import cgroups, workspace
from builder.dib.isolation.workspace import Workspace
from tests.unit.dib_world import BUILD

GIB = 1 << 30


class Machine:
    """A machine's cgroup files, imitated: what is mounted, and where imagepool itself runs."""

    def __init__(self, place: Path) -> None:
        self.root, self.proc = place / "cgroup", place / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.runs_in("/")

    def group(self, path: str, controllers: str, processes: str = "") -> Path:
        group = self.root / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.controllers").write_text(f"{controllers}\n")
        (group / "cgroup.procs").write_text(processes)
        return group

    def runs_in(self, path: str, *others: str) -> None:
        (self.proc / "self" / "cgroup").write_text("\n".join([*others, f"0::{path}"]) + "\n")

    def support(self) -> cgroups.Support:
        return cgroups.available(self.root, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def delegated(machine: Machine) -> Path:
    """The group of a service that systemd delegated, with the daemon in a group of its own in it."""
    machine.group("", "cpuset cpu io memory pids")
    service = machine.group("system.slice/imagepool.service", "cpu memory pids")
    machine.group("system.slice/imagepool.service/daemon", "cpu memory pids", "42\n")
    machine.runs_in("/system.slice/imagepool.service/daemon")
    return service


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(
        tmp_path / "work", image="image", build_id=BUILD, installation_id="i", now=datetime.now(UTC)
    )


def test_beside_the_daemons_own_group_in_a_delegated_service(machine: Machine, delegated: Path) -> None:
    assert machine.support() == cgroups.Support(cpu=True, memory=True, parent=delegated)


def test_at_the_root_where_no_systemd_is(machine: Machine) -> None:
    top = machine.group("", "cpu memory", "1\n42\n")
    assert machine.support() == cgroups.Support(cpu=True, memory=True, parent=top)


def test_a_hierarchy_for_the_new_controllers_alone_is_found(machine: Machine) -> None:
    machine.root = machine.root / "unified"
    top = machine.group("", "cpu memory")
    machine.root = machine.root.parent
    assert machine.support().parent == top


class TestWhereThereIsNoPlace:
    """Each has a sentence of its own, and none raises."""

    def no_place(self, machine: Machine) -> str:
        support = machine.support()
        assert (support.cpu, support.memory, support.parent) == (False, False, None)
        assert not support.problem.endswith(".")
        return support.problem

    def test_no_cgroup_v2(self, machine: Machine) -> None:
        assert self.no_place(machine) == f"there is no cgroup v2 hierarchy at {machine.root}"

    def test_the_controllers_are_in_v1(self, machine: Machine) -> None:
        machine.group("", "hugetlb")
        machine.runs_in("/", "4:memory:/daemons", "1:cpu,cpuacct:/")
        assert self.no_place(machine).startswith("this machine uses cgroup v1 for cpu and memory")

    def test_the_controllers_are_nowhere(self, machine: Machine) -> None:
        machine.group("", "pids")
        assert self.no_place(machine) == f"{machine.root} has no controller for cpu and memory"

    def test_the_root_is_systemds(self, machine: Machine) -> None:
        machine.group("", "cpu memory")
        machine.group("init.scope", "cpu memory")
        assert "systemd manages" in self.no_place(machine)

    def test_the_root_is_a_containers_and_has_its_processes_in_it(self, machine: Machine) -> None:
        (machine.group("", "cpu memory", "1\n42\n") / "cgroup.events").write_text("populated 1\n")
        assert "this container's own group" in self.no_place(machine)

    def test_the_services_group_has_the_daemon_in_it(self, machine: Machine) -> None:
        machine.group("", "cpu memory")
        machine.group("system.slice", "cpu memory")
        machine.group("system.slice/imagepool.service", "cpu memory", "42\n")
        machine.runs_in("/system.slice/imagepool.service")
        problem = self.no_place(machine)
        assert "has imagepool's processes in it" in problem
        assert "`DelegateSubgroup=daemon`" in problem

    def test_the_services_group_has_other_processes_in_it(self, machine: Machine, delegated: Path) -> None:
        (delegated / "cgroup.procs").write_text("43\n")
        assert "there are processes in" in self.no_place(machine)

    def test_it_is_out_of_sight(self, machine: Machine) -> None:
        """In a container, say, whose own group is not below what is mounted."""
        machine.group("", "cpu memory")
        machine.runs_in("/../../gone.service/daemon")
        assert "can't be looked at" in self.no_place(machine)


def test_this_machine_has_a_place_or_a_reason() -> None:
    support = cgroups.available()
    assert (support.parent is None) == bool(support.problem)


@pytest.fixture
def group_for(machine: Machine, space: Workspace) -> Callable[[BuildLimits], cgroups.Group]:
    def group_for(limits: BuildLimits) -> cgroups.Group:
        return cgroups.group_for(space, limits, machine.root, machine.proc)

    return group_for


GroupFor = Callable[[BuildLimits], cgroups.Group]


def test_what_a_build_is_held_to(delegated: Path, space: Workspace, group_for: GroupFor) -> None:
    assert group_for(BuildLimits(cpus=1.5, memory=2 * GIB)) == cgroups.Group(
        path=delegated / f"imagepool-{BUILD}",
        files={
            "cpu.max": "150000 100000",
            "memory.max": "2147483648",
            "memory.swap.max": "0",
            "memory.oom.group": "1",
        },
        controllers="+cpu +memory",
    )
    assert space.group.read_text() == f"{delegated}/imagepool-{BUILD}\n"


def test_what_is_not_limited_is_not_set(delegated: Path, group_for: GroupFor) -> None:
    assert group_for(BuildLimits(cpus=0.5)).files == {"cpu.max": "50000 100000"}
    assert "cpu.max" not in group_for(BuildLimits(memory=GIB)).files


def test_a_build_without_limits_has_no_group(space: Workspace, group_for: GroupFor) -> None:
    assert group_for(BuildLimits()) == cgroups.Group()
    assert not space.group.exists()


def test_a_machine_that_can_limit_one_of_two_says_which_it_can_not(
    machine: Machine, delegated: Path, group_for: GroupFor
) -> None:
    (delegated / "cgroup.controllers").write_text("memory pids\n")
    both = group_for(BuildLimits(cpus=1, memory=GIB))
    assert both.problem == f"{delegated} has no controller for cpu"
    assert both.files.keys() == {"memory.max", "memory.swap.max", "memory.oom.group"}
    assert both.controllers == "+memory"
    assert group_for(BuildLimits(memory=GIB)).problem == ""
    assert group_for(BuildLimits(cpus=1)).path is None
    assert group_for(BuildLimits(cpus=1)).problem == both.problem


def test_a_machine_that_can_not_limit_says_why(
    machine: Machine, space: Workspace, group_for: GroupFor
) -> None:
    machine.group("", "hugetlb")
    found = group_for(BuildLimits(memory=GIB))
    assert found == cgroups.Group(problem=machine.support().problem)
    assert not space.group.exists()


def test_a_build_that_needed_more_memory_is_told_from_one_that_did_not(
    delegated: Path, space: Workspace, group_for: GroupFor
) -> None:
    assert not cgroups.ran_out_of_memory(space)
    path = group_for(BuildLimits(memory=GIB)).path
    assert path is not None
    assert not cgroups.ran_out_of_memory(space)
    path.mkdir()
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n")
    assert not cgroups.ran_out_of_memory(space)
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 99\noom 1\noom_kill 7\noom_group_kill 1\n")
    assert cgroups.ran_out_of_memory(space)


def test_looking_leaves_nothing(machine: Machine, delegated: Path) -> None:
    before = sorted(machine.root.rglob("*"))
    machine.support()
    assert sorted(machine.root.rglob("*")) == before
