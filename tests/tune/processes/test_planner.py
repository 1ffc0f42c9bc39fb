"""How many trials a cluster holds, what limits them, and what can never be had."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from trbert.errors import InputError
from tune.processes import planner
from tune.processes.planner import Cluster, Fit, bundle, cluster_of, fit, gpu_share, trials_at_once

SMALL, LARGE = {"CPU": 4.0, "GPU": 0.0}, {"CPU": 16.0, "GPU": 2.0}


def cluster(*machines, started=None):
    return Cluster(machines=machines, started=len(machines) if started is None else started)


@pytest.mark.parametrize(
    ("machines", "bundles", "expected"),
    [
        ([SMALL], [bundle(0.0)], Fit(trials=4, limit="CPU")),
        ([SMALL, SMALL], [bundle(0.0)] * 3, Fit(trials=2, limit="CPU")),  # the second lies on both machines
        ([SMALL, LARGE], [bundle(0.5)], Fit(trials=4, limit="GPU")),
        ([LARGE], [bundle(0.25)] * 2, Fit(trials=4, limit="GPU")),
        # Without GPUs a process goes where there are none, so that both trials find theirs.
        ([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.0}], [bundle(0.0), bundle(0.5)], Fit(trials=1, limit="CPU")),
        (
            [{"CPU": 2.0, "GPU": 0.0}, {"CPU": 1.0, "GPU": 1.0}],
            [bundle(0.5), bundle(0.0)],
            Fit(trials=1, limit="CPU and GPU on one machine"),
        ),
        # By room alone the first process would go beside the GPU, and leave no processor there.
        (
            [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 0.0}],
            [bundle(0.0), bundle(1.0)],
            Fit(trials=1, limit="CPU"),
        ),
        # The fullest first: the small process leaves the large machine to the large one.
        ([{"CPU": 4.0, "GPU": 0.0}, SMALL | {"CPU": 2.0}], [{"CPU": 2.0}, {"CPU": 4.0}], Fit(trials=1, limit="CPU")),
        # 1.2 less .4 twice is a little less than .4 to a computer.
        ([{"CPU": 1.2, "GPU": 0.0}], [{"CPU": 0.4}], Fit(trials=3, limit="CPU")),
    ],
)
def test_trials_are_packed_and_the_limit_is_named(machines, bundles, expected) -> None:
    assert fit(cluster(*machines), bundles) == expected


@pytest.mark.parametrize(
    ("machines", "processes", "gpus", "told"),
    [
        (
            [SMALL],
            5,
            0.0,
            "a trial needs 5 CPUs for its 5 processes, and can never have them, because there is too little CPU "
            "on 1 machine with 4 CPUs: use fewer workers, or larger machines",
        ),
        (
            [LARGE],
            1,
            3.0,
            "there is too little GPU on 1 machine with 16 CPUs, 2 GPUs: use --gpus-per-worker of at mo",
        ),
        (
            [SMALL],
            1,
            1.0,
            "there is too little GPU on 1 machine with 4 CPUs: use fewer workers, or larger machines",
        ),
        ([], 1, None, "there is too little CPU on 0 machines with no CPUs: use fewer"),
    ],
)
def test_what_can_never_run_is_refused_by_name(machines, processes, gpus, told) -> None:
    with pytest.raises(InputError) as error:
        trials_at_once(cluster(*machines), processes, gpus)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("machines", "processes", "share"), [([SMALL], 4, 0.0), ([LARGE], 1, 1.0), ([LARGE], 4, 0.5), ([LARGE], 5, 0.333)]
)
def test_gpus_are_shared_so_that_a_whole_number_of_processes_fills_each(machines, processes, share) -> None:
    assert gpu_share(cluster(*machines), processes) == share


def test_an_even_share_of_gpus_leaves_machines_without_any_alone() -> None:
    found = trials_at_once(cluster(SMALL, SMALL, LARGE), 2, None)
    assert found == Fit(trials=8, limit="GPU")  # 16 processes, an eighth of a GPU each, all on the machine with GPUs


def described(tmp_path, monkeypatch, **changes):
    worker = {"resources": {"CPU": 8, "GPU": 1, "memory": 10**10}, "max_workers": 4, "node_config": {}}
    config = {
        "head_node_type": "head",
        "max_workers": 5,
        "available_node_types": {
            "head": {"resources": {"CPU": 0}},
            "spot": worker,
            "on_demand": worker | {"max_workers": 4},
        },
    } | changes
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(planner, "AUTOSCALER_FILE", path)


@pytest.mark.ray
def test_machines_that_an_autoscaler_may_start_count(ray_local, tmp_path, monkeypatch) -> None:
    described(tmp_path, monkeypatch)
    found = planner.cluster_at_hand()
    assert found == Cluster(machines=({"CPU": 8.0, "GPU": 1.0},) * 5, started=1)
    assert str(found) == "5 machines with 40 CPUs, 5 GPUs, 4 of them started when trials wait for them"


@pytest.mark.ray
@pytest.mark.parametrize("types", [None, {"head": {}}, {"head": {}, "worker": {"resources": {}, "max_workers": 3}}])
def test_without_a_description_the_machines_are_those_that_run(ray_local, tmp_path, monkeypatch, types) -> None:
    if types is None:
        monkeypatch.setattr(planner, "AUTOSCALER_FILE", tmp_path / "none.yaml")
    else:
        described(tmp_path, monkeypatch, available_node_types=types)
    assert planner.cluster_at_hand() == Cluster(machines=({"CPU": 2.0, "GPU": 0.0},), started=1)


def test_an_address_without_a_cluster_is_the_users_to_mend() -> None:
    with pytest.raises(InputError, match=r"--address 127\.0\.0\.1:1 must be of a running Ray cluster"):
        cluster_of("127.0.0.1:1")


class Asked:
    """Stands for `subprocess.run`: the answer of the process that asks a cluster."""

    def __init__(self, code: int, out: str = "", err: str = "") -> None:
        self.returncode, self.stdout, self.stderr = code, out, err
        self.given: dict[str, object] = {}

    def __call__(self, command: list[str], **words: object) -> "Asked":
        self.given = {"command": command, **words}
        return self


def test_another_process_asks_a_cluster_for_its_machines(monkeypatch) -> None:
    asked = Asked(0, 'a line of Ray\n[[{"CPU": 8.0, "GPU": 1.0}], 1]\n')
    monkeypatch.setattr(planner.subprocess, "run", asked)
    assert cluster_of("auto") == Cluster(machines=({"CPU": 8.0, "GPU": 1.0},), started=1)
    assert asked.given["command"][1:] == ["-m", "tune.processes.planner", "auto"]
    assert asked.given["timeout"] == planner.PATIENCE_S
    # From whatever folder it is started, it finds the package `tune`.
    first = asked.given["env"]["PYTHONPATH"].split(os.pathsep)[0]
    assert (Path(first) / "tune" / "processes" / "planner.py").exists()


def test_why_there_is_no_cluster_is_the_last_thing_that_the_process_says(monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(planner.subprocess, "run", Asked(1, err="Traceback\nno Ray here\n\n"))
    with pytest.raises(
        InputError, match=r"^--address auto must be of a running Ray cluster, and is not \(no Ray here\): "
    ):
        cluster_of("auto")


def test_a_cluster_that_answers_nothing_is_given_up(monkeypatch) -> None:
    def run(command: list[str], timeout: float, **words: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(planner.subprocess, "run", run)
    with pytest.raises(
        InputError, match=r"^RAY_ADDRESS auto must be .* \(no answer within 60 s\): .*unset it to search"
    ):
        cluster_of("auto")


def test_learners_of_a_team_count_among_those_that_share_the_gpus() -> None:
    # Six processors hold two trials of three processes, or one of three with two learners more.
    machine = cluster({"CPU": 6.0, "GPU": 1.0})
    assert planner.gpus_each(machine, 3) == gpu_share(machine, 6)
    assert planner.gpus_each(machine, 3, learners=2) == gpu_share(machine, 5)


def test_learners_take_processors_and_whole_gpus_of_their_own() -> None:
    # A process without a GPU, and two learners with one each.
    machine = cluster({"CPU": 7.0, "GPU": 5.0})
    assert trials_at_once(machine, 1, 0.0) == Fit(trials=7, limit="CPU")
    assert trials_at_once(machine, 1, 0.0, learners=2) == Fit(trials=2, limit="CPU")  # three processors each
    assert trials_at_once(cluster({"CPU": 9.0, "GPU": 3.0}), 1, 0.0, learners=2) == Fit(trials=1, limit="GPU")
    assert trials_at_once(cluster({"CPU": 9.0, "GPU": 0.0}), 1, 0.0, learners=2) == Fit(trials=3, limit="CPU")
    assert trials_at_once(cluster({"CPU": 9.0, "GPU": 0.0}), 2, None, learners=2) == Fit(trials=2, limit="CPU")


def test_an_even_share_counts_the_learners_too() -> None:
    # Five processors hold one trial of a process and two learners: three processes on two GPUs have a half each.
    with pytest.raises(InputError, match=r"a trial needs 3 CPUs and 2\.5 GPUs for its 3 processes"):
        trials_at_once(cluster({"CPU": 5.0, "GPU": 2.0}), 1, None, learners=2)


def alive(monkeypatch, *nodes):
    """Ray at hand has these nodes: whether each is alive, and its resources."""
    told = [{"Alive": alive, "Resources": resources} for alive, resources in nodes]
    monkeypatch.setattr(planner.ray, "nodes", lambda: told)


def test_machines_that_are_lost_or_have_no_processors_do_not_count(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(planner, "AUTOSCALER_FILE", tmp_path / "none.yaml")
    alive(monkeypatch, (True, {"CPU": 4.0, "memory": 9.0}), (False, {"CPU": 8.0}), (True, {"memory": 1.0}))
    assert planner.cluster_at_hand() == Cluster(machines=({"CPU": 4.0, "GPU": 0.0},), started=1)


def test_of_the_machines_that_an_autoscaler_may_start_no_more_count_than_its_most(tmp_path, monkeypatch) -> None:
    described(tmp_path, monkeypatch)
    alive(monkeypatch, (True, {"CPU": 0.0}), (True, {"CPU": 8.0, "GPU": 1.0}))
    worker = {"CPU": 8.0, "GPU": 1.0}
    assert planner.cluster_at_hand() == Cluster(machines=(worker,) * 5, started=1)  # two kinds of four, five in all
    described(tmp_path, monkeypatch, max_workers=20)
    assert planner.cluster_at_hand() == Cluster(machines=(worker,) * 8, started=1)


def test_a_remedy_names_a_smaller_share_only_where_there_are_gpus() -> None:
    with pytest.raises(InputError, match=r"use --gpus-per-worker of at most 2$"):
        trials_at_once(cluster(LARGE), 1, 2.5)
    with pytest.raises(InputError, match=r"use fewer workers, or larger machines$"):
        trials_at_once(cluster(SMALL), 1, 0.5)
