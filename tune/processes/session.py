"""The session of Ray that a search runs in: it is started here, and work is done on a worker of a cluster."""

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import ray
from ray._private import ray_constants
from ray.exceptions import RayTaskError
from ray.util.queue import Queue

from trbert.console import end_on_sigterm

Found = TypeVar("Found")


def start_ray(address: str, cores: int, verbose: bool) -> None:
    """Starts Ray on this machine, or joins a cluster.

    Args:
        address: "local", or that of a cluster.
        cores: the processors of this machine that Ray may use; a cluster counts its own.
        verbose: whether to show Ray's own log.
    """
    options: dict[str, Any] = {}
    if address == "local":
        # Ray would keep the token with which its processes know each other in the home folder, readable by everybody.
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _listen_on_loopback()
        options = {"num_cpus": cores, "include_dashboard": False}
    level = logging.INFO if verbose else logging.ERROR
    ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    end_on_sigterm()


def _listen_on_loopback() -> None:
    """Lets the processes of Ray that this one starts listen on 127.0.0.1 alone; else they listen on all addresses.

    Ray does so by default on macOS and Windows, where it makes no clusters. The argument `_node_ip_address` of
    `ray.init` does not help, because Ray replaces a loopback address in it.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False
    if os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # for what the learners of a team send each other


def on_cluster(work: Callable[..., Found], takers: dict[str, Callable[..., None]], gpus: float) -> Found:
    """Runs a function on a worker, because the head of a cluster offers no processors.

    Args:
        work: the function. Its arguments are functions, by the names of the takers.
        takers: are called here with what the function gives to its arguments of the same names.
        gpus: the GPUs that the function needs.
    """
    lines = Queue(actor_options={"num_cpus": 0})
    # Whenever a machine is lost, Ray runs it again on another one.
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(_told)
    found_ref = remote.remote(work, list(takers), lines.put)
    try:
        while True:
            done, _ = ray.wait([found_ref], timeout=0.5)
            for name, given in lines.get_nowait_batch(lines.qsize()):
                takers[name](*given)
            if done:
                found: Found = ray.get(found_ref)
                return found
    except RayTaskError as error:
        raise error.cause from None
    finally:
        lines.shutdown()


def _told(work: Callable[..., Found], names: Sequence[str], put: Callable[[tuple[str, Any]], None]) -> Found:
    return work(**{name: partial(_put, put, name) for name in names})


def _put(put: Callable[[tuple[str, Any]], None], name: str, *given: Any) -> None:
    put((name, given))
