"""`ray up cluster.local.yaml` on real hosts: a search on it, strangers kept out, and nothing left of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from hosts import HEAD, Hosts, LocalCluster, missing

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SHARED = Path("/var/tmp/trbert_cluster_test")
SEARCH = (
    "--budget 5m --num-trials 2 --num-rollout-workers 1 --set data.train_rows=200 --set data.validation_rows=60 "
    "--set data.test_rows=60 --set data.max_length=48 --set teacher.epochs=1 --set select.documents=160 "
    "--set select.warm_start_documents=0 --set joint.documents=160"
)


@pytest.fixture(scope="module")
def cluster():
    """Three hosts with a cluster on them."""
    if lacking := missing():
        pytest.fail(f"{lacking}: run make check-cluster")
    hosts = Hosts()
    hosts.up()
    try:
        found = LocalCluster(hosts, SHARED)
        found.up()
        yield found
    finally:
        hosts.act("down")
        subprocess.run(["rm", "-rf", str(SHARED)], check=False)


def test_every_host_joins_and_the_plan_is_for_all_of_them(cluster) -> None:
    assert sorted(cluster.nodes()) == [cluster.hosts.address(host) for host in range(3)]
    told = cluster.on_head(".venv/bin/python tune/search.py --address auto --num-rollout-workers 1 --dry-run")
    assert re.search(r"Ray cluster at auto: 3 machines with \d+ CPUs; room for \d+ trials, and no CPU for more", told)
    refused = ".venv/bin/python tune/search.py --address auto --num-rollout-workers 5000 --dry-run 2>&1 || true"
    assert "can never have them, because there is too little CPU" in cluster.on_head(refused)


def test_the_token_is_readable_by_its_owner_alone_on_every_host(cluster) -> None:
    assert [cluster.hosts.ssh(host, "stat -c %a ~/.ray/auth_token").strip() for host in range(3)] == ["600"] * 3


def test_a_search_runs_on_the_hosts_and_leaves_a_front(cluster) -> None:
    log = cluster.search(SEARCH)
    cluster.wait(lambda: "in all" in log.read_text(), 600, f"the search to end: {log}")
    assert "2 of 2" in log.read_text()
    assert (SHARED / "runs" / "run" / "front.csv").is_file()
    assert not list((SHARED / "storage").rglob("state.pt"))  # what a finished trial needs no more


STRANGERS = {
    "without a token": "",
    "with a wrong token": "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=wrong0123456789abcdef0123456789",
}


@pytest.mark.parametrize("given", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_neither_connects_nor_joins_nor_submits(cluster, given) -> None:
    head, ray = cluster.hosts.address(HEAD), "/root/trbert/.venv/bin/ray"
    stranger = f"env -u RAY_AUTH_MODE HOME=/root/stranger {given}"
    connect = f"import ray; ray.init('{head}:6379', log_to_driver=False); print('connected', ray.nodes())"
    told = cluster.hosts.ssh(
        2,
        f'mkdir -p /root/stranger; {stranger} timeout 60 /root/trbert/.venv/bin/python -c "{connect}" 2>&1 || true',
        90,
    )
    assert "connected" not in told
    joined = cluster.hosts.ssh(2, f"{stranger} timeout 40 {ray} start --address={head}:6379 --block 2>&1 || true", 90)
    assert "Ray runtime started" not in joined or len(cluster.nodes()) == 3
    submitted = cluster.hosts.ssh(
        HEAD, f"{stranger} timeout 60 {ray} job submit --address http://127.0.0.1:8265 -- echo hello 2>&1 || true", 90
    )
    assert "hello" not in submitted.replace("echo hello", "")
    assert sorted(cluster.nodes()) == [cluster.hosts.address(host) for host in range(3)]


def test_the_dashboard_answers_on_the_head_alone(cluster) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://{}:8265/api/version', timeout=5).status)"
    python = "/root/trbert/.venv/bin/python"
    own = cluster.hosts.ssh(HEAD, f'{python} -c "{ask.format("127.0.0.1")}" 2>&1 || true')
    assert "200" in own or "401" in own or "Unauthorized" in own
    other = cluster.hosts.ssh(1, f'{python} -c "{ask.format(cluster.hosts.address(HEAD))}" 2>&1 || true')
    assert "refused" in other


def test_after_ray_down_nothing_is_left_running(cluster) -> None:
    cluster.down()
    # The brackets keep the pattern from finding the shell that it stands in.
    running = "pgrep -af '[r]aylet/raylet|[g]cs_server|[t]une/search.py' || true"
    cluster.wait(lambda: cluster.hosts.ssh(HEAD, running) == "", 60, "the head to stop")
    # On one's own machines `ray down` stops the head; workers stop themselves once it has been away for a minute.
    cluster.wait(lambda: not any(cluster.hosts.ssh(host, running) for host in (1, 2)), 120, "the workers to stop")
