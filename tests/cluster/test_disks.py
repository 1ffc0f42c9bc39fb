"""Full disks on a cluster: a worker's own, and the storage that all share. Said, and nothing that was kept is lost."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tune.checkpoints import MANIFEST, newest_state

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from hosts import Hosts, LocalCluster, missing
from ray import train

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SHARED = Path("/var/tmp/trbert_disk_test")
STORAGE, SMALL = SHARED / "storage", "2g"
STRUCK = 1
SEARCH = (
    "--budget 20m --num-trials 2 --num-rollout-workers 1 --set data.train_rows=200 --set data.validation_rows=60 "
    "--set data.test_rows=60 --set data.max_length=48 --set teacher.epochs=1 --set select.documents=12000 "
    "--set select.warm_start_documents=0 --set joint.documents=160"
)


@pytest.fixture
def cluster():
    """Two hosts, one with a small /tmp of its own, and a small storage for both."""
    if lacking := missing():
        pytest.fail(f"{lacking}: run make check-cluster")
    hosts = Hosts(2)
    hosts.act("down")
    own = hosts.folder / f"h{STRUCK}" / "tmp"
    subprocess.run(["rm", "-rf", str(SHARED)], check=False)
    for folder in (own, STORAGE):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)], check=True)
    try:
        hosts.up(fresh=False)
        found = LocalCluster(hosts, SHARED)
        found.up()
        yield found
    finally:
        hosts.power_off()
        for folder in (own, STORAGE):
            subprocess.run(["umount", "-l", str(folder)], check=False)
        hosts.act("down")


def states() -> list[Path]:
    """Returns the folders of the trials' states, the oldest first."""
    return sorted(path.parent for path in STORAGE.rglob(MANIFEST) if "teacher" not in str(path))


def search(cluster) -> Path:
    """Starts a search, and returns its log once a trial has left a state."""
    log = cluster.search(SEARCH)
    cluster.wait(lambda: bool(states()) or "error:" in log.read_text(), 600, f"a trial's first state: {log}")
    assert states(), log.read_text()
    return log


FULL = re.compile(r"failed on 10\.77\.0\.\d+ because its disk or the storage is full|error: disk full")


def test_a_full_disk_of_a_worker_is_said_and_its_trial_goes_on(cluster) -> None:
    log = search(cluster)
    cluster.hosts.ssh(STRUCK, "dd if=/dev/zero of=/tmp/filled bs=1M || true")
    cluster.wait(lambda: FULL.search(log.read_text()) is not None, 300, f"word of it: {log}")
    assert f"failed on {cluster.hosts.address(STRUCK)} because its disk or the storage is full" in log.read_text()
    cluster.hosts.ssh(STRUCK, "rm /tmp/filled")
    cluster.wait(lambda: "in all" in log.read_text(), 1200, f"the search to end: {log}")
    assert "2 of 2" in log.read_text()


def test_a_full_storage_is_said_what_was_kept_stays_whole_and_the_search_goes_on(cluster) -> None:
    log = search(cluster)
    kept = states()[0]
    key = json.loads((kept / "manifest.json").read_text())["key"]
    before = newest_state(train.Checkpoint.from_directory(str(kept)), key)
    filled = STORAGE / "filled"
    subprocess.run(["dd", "if=/dev/zero", f"of={filled}", "bs=1M"], check=False, capture_output=True)
    cluster.wait(lambda: FULL.search(log.read_text()) is not None, 400, f"word of it: {log}")
    after = newest_state(train.Checkpoint.from_directory(str(kept)), key)
    assert before is not None
    assert after is not None
    assert after.state["step"] == before.state["step"]
    filled.unlink()
    if "resume or start again" in log.read_text():  # the driver could not write either
        cluster.resume(log)
    cluster.wait(lambda: "in all" in log.read_text(), 1200, f"the search to end: {log}")
    assert "2 of 2" in log.read_text()
    assert len(list(STORAGE.rglob("trial.json"))) == 2
