"""What a cluster can run: its machines, how many trials fit on them at once, and what there is too little of."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import yaml

from trbert.errors import InputError

AUTOSCALER_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's description on its head."""

Resources = dict[str, float]
"""Amounts by Ray's names: CPU, GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How trials fit on machines.

    Attributes:
        trials: at once.
        limit: what the next one lacks.
    """

    trials: int
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The machines that trials may run on.

    Attributes:
        machines: the resources of each.
        started: how many of them run; an autoscaler starts the others when trials wait for them.
    """

    machines: tuple[Resources, ...]
    started: int

    def __str__(self) -> str:
        totals = ", ".join(f"{self.total(name):g} {name}s" for name in ("CPU", "GPU") if self.total(name))
        waiting = len(self.machines) - self.started
        later = f", {waiting} of them started when trials wait for them" if waiting > 0 else ""
        number = len(self.machines)
        return f"{number} machine{'s' * (number != 1)} with {totals or 'no CPUs'}{later}"

    def total(self, name: str) -> float:
        """Returns how much of a resource all machines have together."""
        return math.fsum(machine.get(name, 0.0) for machine in self.machines)


def bundle(gpus: float) -> Resources:
    """Returns what one process of a trial takes."""
    return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


def fit(cluster: Cluster, bundles: Sequence[Resources]) -> Fit:
    """Returns how many groups of bundles the machines hold: a group may lie on several machines, a bundle may not.

    Raises:
        InputError: They hold none.

    Example:
        >>> machines = ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0})
        >>> fit(Cluster(machines=machines, started=2), [{"CPU": 1.0, "GPU": 0.5}, {"CPU": 4.0}])
        Fit(trials=2, limit='GPU')
    """
    free = [dict(machine) for machine in cluster.machines]
    trials = 0
    while (lacking := _place(free, bundles)) is None:
        trials += 1
    if trials == 0:
        raise InputError(_never(cluster, bundles, lacking))
    return Fit(trials=trials, limit=lacking)


def _place(free: list[Resources], bundles: Sequence[Resources]) -> str | None:
    """Takes the bundles off the machines' free resources; returns what is lacking where they do not fit."""
    for each in bundles:
        fitting = [machine for machine in free if all(machine.get(name, 0.0) >= each[name] for name in each)]
        if not fitting:
            lacking = [name for name in each if all(machine.get(name, 0.0) < each[name] for machine in free)]
            return lacking[0] if lacking else f"{' and '.join(each)} on one machine"
        # The fullest first, as Ray packs; and no machine with GPUs for what needs none, while another has room.
        best = min(fitting, key=lambda machine: (machine.get("GPU", 0.0) > 0 and "GPU" not in each, machine["CPU"]))
        for name, amount in each.items():
            best[name] = round(best[name] - amount, 6)
    return None


def _never(cluster: Cluster, bundles: Sequence[Resources], lacking: str) -> str:
    needs = {name: sum(each.get(name, 0.0) for each in bundles) for name in ("CPU", "GPU")}
    words = " and ".join(f"{amount:g} {name}s" for name, amount in needs.items() if amount)
    largest = max(each.get("GPU", 0.0) for each in bundles)
    most = max(machine["GPU"] for machine in cluster.machines) if cluster.machines else 0.0
    remedy = f"--gpus-per-worker of at most {most:g}" if largest > most > 0 else "fewer workers, or larger machines"
    return (
        f"a trial needs {words} for its {len(bundles)} processes, and can never have them, for want of {lacking}: "
        f"all there can be is {cluster}; use {remedy}"
    )


def gpu_share(cluster: Cluster, processes: int) -> float:
    """Returns the GPUs of each of so many processes: all of one, or a fraction of which a whole number fills it.

    Example:
        >>> gpu_share(Cluster(machines=({"CPU": 8.0, "GPU": 2.0},), started=1), processes=6)
        0.333
    """
    gpus = cluster.total("GPU")
    return math.floor(1000 / max(1, math.ceil(processes / gpus))) / 1000 if gpus else 0.0


def trials_at_once(cluster: Cluster, processes: int, gpus: float | None, learners: int = 1) -> Fit:
    """Returns how many trials run at once.

    Args:
        cluster: the machines.
        processes: a trial's own and its rollout workers.
        gpus: of each of them; an even share when None.
        learners: of its joint stage; more than one are processes of their own, each with a whole GPU where there are.

    Raises:
        InputError: None ever can.
    """
    team = [bundle(float(cluster.total("GPU") > 0))] * learners if learners > 1 else []
    if gpus is None:
        gpus = gpus_each(cluster, processes, learners)
    return fit(cluster, [bundle(gpus)] * processes + team)


def gpus_each(cluster: Cluster, processes: int, learners: int = 1) -> float:
    """Returns an even share of the GPUs, for each process of as many trials as the processors beside GPUs allow.

    Raises:
        InputError: They allow none.
    """
    everyone = processes + (learners if learners > 1 else 0)
    with_gpus = tuple(machine for machine in cluster.machines if machine["GPU"] > 0)
    by_cpus = fit(replace(cluster, machines=with_gpus or cluster.machines), [bundle(0.0)] * everyone)
    return gpu_share(cluster, by_cpus.trials * everyone)


def cluster_of(address: str) -> Cluster:
    """Returns the machines of the cluster at an address.

    Raises:
        InputError: Nothing answers there.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--address {address} must be of a running Ray cluster, and is not ({error})") from error
    try:
        return cluster_at_hand()
    finally:
        ray.shutdown()


def cluster_at_hand() -> Cluster:
    """Returns the machines of the cluster that Ray is connected to, those included that its autoscaler may start."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    running = [_amounts(node["Resources"]) for node in nodes if node["Alive"]]
    running = [machine for machine in running if machine["CPU"] > 0]
    described = _described(AUTOSCALER_FILE.expanduser())
    return Cluster(machines=tuple(running) if described is None else described, started=len(running))


def _described(path: Path) -> tuple[Resources, ...] | None:
    """Returns the machines that a cluster's description allows, or None where it does not say what they have."""
    if not path.is_file():
        return None
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    types: dict[str, dict[str, Any]] = dict(config["available_node_types"])
    head = _amounts(types.pop(config["head_node_type"]).get("resources", {}))
    workers: list[Resources] = []
    if not all("CPU" in each.get("resources", {}) for each in types.values()) or not types:
        return None
    for each in types.values():
        workers += [_amounts(each["resources"])] * each.get("max_workers", config["max_workers"])
    # Of two kinds for the same work, such as spot and on demand, no more are started than the whole may have.
    machines = [head, *workers[: config["max_workers"]]]
    return tuple(machine for machine in machines if machine["CPU"] > 0)


def _amounts(resources: dict[str, Any]) -> Resources:
    return {name: float(resources.get(name, 0.0)) for name in ("CPU", "GPU")}
