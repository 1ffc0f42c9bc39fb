"""`ray up cluster.yaml` on a stand-in for EC2: workers come when trials want them, are replaced, and go."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from hosts import Ec2Cluster, missing_of_ec2

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SHARED = Path("/var/tmp/trbert_ec2_test")
# What stands in for a machine with a GPU has none.
SEARCH = (
    "--budget 10m --num-trials 2 --num-rollout-workers 1 --set compute.device=cpu --set data.train_rows=200 "
    "--set data.validation_rows=60 --set data.test_rows=60 --set data.max_length=48 --set teacher.epochs=1 "
    "--set select.documents=4000 --set select.warm_start_documents=0 --set joint.documents=160"
)


@pytest.fixture(scope="module")
def cluster():
    """A head, and no worker yet."""
    if lacking := missing_of_ec2():
        pytest.fail(f"{lacking}: run make check-cluster")
    subprocess.run(["rm", "-rf", str(SHARED)], check=False)
    found = Ec2Cluster(SHARED)
    try:
        found.up()
        yield found
    finally:
        found.off()


def test_only_the_head_runs_before_there_is_work(cluster) -> None:
    (head,) = cluster.instances()
    assert (head.role, head.type, head.life) == ("head", "m6i.xlarge", "on-demand")


def test_spot_workers_come_for_a_search_and_one_that_is_reclaimed_is_replaced(cluster) -> None:
    log = cluster.search(SEARCH)
    cluster.wait(lambda: "   select " in log.read_text(), 300, f"a trial to select: {log}")
    first = cluster.instances("worker")
    assert first
    assert all((worker.type, worker.life) == ("g5.2xlarge", "spot") for worker in first)
    cluster.reclaim()
    known = {worker.id for worker in first}
    cluster.wait(lambda: any(each.id not in known for each in cluster.instances("worker")), 240, "another worker")
    cluster.wait(lambda: "in all" in log.read_text(), 900, f"the search to end: {log}")
    assert "2 of 2" in log.read_text()
    assert (SHARED / "runs" / "run" / "front.csv").is_file()


def test_idle_workers_go(cluster) -> None:
    cluster.wait(lambda: not cluster.instances("worker"), 480, "idle workers to end")
    assert len(cluster.instances("head")) == 1


def test_ray_down_leaves_no_instance(cluster) -> None:
    cluster.down()
    assert cluster.instances() == []
