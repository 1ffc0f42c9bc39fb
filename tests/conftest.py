"""What every test runs under: a private home, no network, few threads, and one local Ray for all that need it."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# Short, for Ray's sockets lie below it and a socket's path has room for 107 bytes.
SESSION = Path(tempfile.mkdtemp(prefix="trb", dir="/tmp"))
(SESSION / "home").mkdir()

# Before anything imports Ray or Hugging Face: they read these once. Ray leaves a token in the home folder, and later
# clusters of this machine would demand it.
os.environ |= {
    "HOME": str(SESSION / "home"),
    "TRBERT_CACHE": str(SESSION / "cache"),
    "RAY_TMPDIR": str(SESSION),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    # The same products in the same order on every processor, and wherever in memory the numbers lie. Without it, a
    # copy of a model gives other last digits than the model itself on some processors.
    "MKL_CBWR": "AVX2",
    # Workers and subprocesses import this checkout, installed or not.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
}
# A cluster that the shell points at is not ours to use.
os.environ.pop("RAY_ADDRESS", None)

NOT_RUN = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser):
    parser.addoption("--cluster", action="store_true", help="run the tests that need several hosts or a cloud")


def pytest_collection_modifyitems(config, items):
    missing = {}
    if not config.getoption("--cluster"):
        missing["cluster"] = "needs several hosts: run make check-cluster"
    if not SHARED_DATA.is_dir():
        missing["data"] = "needs real text in ../shared/data, which is absent"
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            missing["gpu"] = "needs a CUDA device: run make check-gpu where there is one"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    config.stash[NOT_RUN] = {
        reason: count
        for marker, reason in missing.items()
        if (count := sum(item.get_closest_marker(marker) is not None for item in items))
    }


def pytest_terminal_summary(terminalreporter, config):
    for reason, count in config.stash.get(NOT_RUN, {}).items():
        terminalreporter.write_line(f"NOT RUN ({count}): {reason}", yellow=True)


def pytest_unconfigure():
    shutil.rmtree(SESSION, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Two threads at most: the same sums on every machine, and room for Ray's workers."""
    import torch

    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture
def captured(monkeypatch):
    """What was captured, one entry for each. As on a GPU, work is done once before it is captured."""
    from trbert.runners import Graphed

    made = []

    def capture(self, work, device):
        work()
        made.append(work)
        return work

    monkeypatch.setattr(Graphed, "_capture", capture)
    return made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text; for tests marked `data`."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_local():
    """Ray on this machine with two CPUs, started once; for tests marked `ray`."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
