"""What a cluster can run: its machines, how many trials fit on them at once, and which resource limits that."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import yaml

from trbert.errors import InputError
from tune.preflight.address import check_answer, remedy, source_of

AUTOSCALER_FILE = Path("~/ray_bootstrap_config.yaml")
"""The file on a cluster's head in which `ray up` saves the description of the cluster."""
PATIENCE_S = 60.0
"""Seconds within which a cluster must tell its machines; they include the start of the process that asks."""

Resources = dict[str, float]
"""Amounts of resources, by Ray's names for them: "CPU" and "GPU"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How many trials fit on machines.

    Attributes:
        trials: the number of trials that fit at the same time.
        limit: the resource that one more trial would lack.
    """

    trials: int
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The machines that trials may run on.

    Attributes:
        machines: the resources of each machine.
        started: how many of the machines are running; an autoscaler starts the others when trials wait for them.
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
        """Returns the amount of a resource that all machines have together."""
        return math.fsum(machine.get(name, 0.0) for machine in self.machines)


def bundle(gpus: float, threads: int = 1) -> Resources:
    """Returns the resources of one process of a trial: these GPUs, and a processor for each of its threads."""
    return {"CPU": float(threads)} | ({"GPU": gpus} if gpus else {})


def fit(cluster: Cluster, bundles: Sequence[Resources]) -> Fit:
    """Returns how many trials the machines can hold at the same time.

    Args:
        cluster: the machines.
        bundles: the resources of each process of a trial. The processes may be on several machines, but each process is
            on one.

    Raises:
        InputError: Not even one trial fits.

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
    """Subtracts the bundles from the machines' free resources; returns the resource that is lacking, or None."""
    for each in bundles:
        fitting = [machine for machine in free if all(machine.get(name, 0.0) >= each[name] for name in each)]
        if not fitting:
            lacking = [name for name in each if all(machine.get(name, 0.0) < each[name] for machine in free)]
            return lacking[0] if lacking else f"{' and '.join(each)} on one machine"
        # As Ray does, take the machine with the fewest free processors. A process that needs no GPU gets a machine with
        # GPUs only if no other machine has room.
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
        f"a trial needs {words} for its {len(bundles)} processes, and can never have them, because there is too "
        f"little {lacking} on {cluster}: use {remedy}"
    )


def gpu_share(cluster: Cluster, processes: int) -> float:
    """Returns the GPUs of each process if so many processes share them: a whole GPU, a half, a third and so on.

    Example:
        >>> gpu_share(Cluster(machines=({"CPU": 8.0, "GPU": 2.0},), started=1), processes=6)
        0.333
    """
    gpus = cluster.total("GPU")
    return math.floor(1000 / max(1, math.ceil(processes / gpus))) / 1000 if gpus else 0.0


def trials_at_once(cluster: Cluster, processes: int, gpus: float | None, learners: int = 1) -> Fit:
    """Returns how many trials can run at the same time.

    Args:
        cluster: the machines.
        processes: the number of processes of a trial: its own one, and its rollout workers.
        gpus: the GPUs of each of these processes; an even share if None.
        learners: the number of processes that share its joint stage. If there are several, they are processes of their
            own, each with a whole GPU if the cluster has GPUs.

    Raises:
        InputError: Not even one trial fits.
    """
    team = [bundle(float(cluster.total("GPU") > 0))] * learners if learners > 1 else []
    if gpus is None:
        gpus = gpus_each(cluster, processes, learners)
    return fit(cluster, [bundle(gpus)] * processes + team)


def gpus_each(cluster: Cluster, processes: int, learners: int = 1) -> float:
    """Returns the even share of the GPUs for each process of a trial.

    The share is for as many trials as the processors allow. If there are GPUs, only the processors of machines with
    GPUs count.

    Raises:
        InputError: The processors do not allow even one trial.
    """
    everyone = processes + (learners if learners > 1 else 0)
    with_gpus = tuple(machine for machine in cluster.machines if machine["GPU"] > 0)
    by_cpus = fit(replace(cluster, machines=with_gpus or cluster.machines), [bundle(0.0)] * everyone)
    return gpu_share(cluster, by_cpus.trials * everyone)


def cluster_of(address: str) -> Cluster:
    """Returns the machines of the cluster at an address.

    Another process asks, which can be ended at any time: Ray waits for an answer where no signal reaches it.

    Raises:
        InputError: No Ray cluster answers at this address within `PATIENCE_S`.
    """
    check_answer(address)
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tune.processes.planner", address]
    try:
        asked = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=PATIENCE_S
        )
        reason = ([line for line in asked.stderr.splitlines() if line.strip()] or ["no reason is given"])[-1].strip()
    except subprocess.TimeoutExpired:
        asked, reason = None, f"no answer within {PATIENCE_S:.0f} s"
    if asked is None or asked.returncode != 0:
        raise InputError(
            f"{source_of(address)} {address} must be of a running Ray cluster, and is not ({reason}): {remedy(address)}"
        )
    machines, started = json.loads(asked.stdout.splitlines()[-1])
    return Cluster(machines=tuple(machines), started=started)


def _tell_cluster(address: str) -> None:
    """Prints the machines of the cluster at an address as JSON; the last line on stderr says why if there is none."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        found = cluster_at_hand()
    except (ConnectionError, RuntimeError, ValueError) as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    print(json.dumps([found.machines, found.started]))


def cluster_at_hand() -> Cluster:
    """Returns the machines of the cluster that Ray is connected to, with those that its autoscaler may still start."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    running = [_amounts(node["Resources"]) for node in nodes if node["Alive"]]
    running = [machine for machine in running if machine["CPU"] > 0]
    described = _described(AUTOSCALER_FILE.expanduser())
    return Cluster(machines=tuple(running) if described is None else described, started=len(running))


def _described(path: Path) -> tuple[Resources, ...] | None:
    """Returns the machines that a cluster's description allows, or None if it does not give their resources."""
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
    # Two kinds of machines may be there for the same work, such as spot and on demand. `max_workers` limits their sum.
    machines = [head, *workers[: config["max_workers"]]]
    return tuple(machine for machine in machines if machine["CPU"] > 0)


def _amounts(resources: dict[str, Any]) -> Resources:
    return {name: float(resources.get(name, 0.0)) for name in ("CPU", "GPU")}


if __name__ == "__main__":
    _tell_cluster(sys.argv[1])
