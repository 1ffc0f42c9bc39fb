"""The versions of trbert and of the packages that results depend on."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

_OF = ("trbert", "torch", "transformers", "ray", "datasets", "gymnasium", "optuna", "numpy", "safetensors")


@cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of these packages, and trbert's commit where it runs from a checkout."""
    found = {"python": platform.python_version()}
    for name in _OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if (commit := _commit()) is not None:
        found["commit"] = commit
    return found


def _commit() -> str | None:
    """Returns the commit of the checkout, with "-dirty" where files have changed since; None without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # there is no git, or the checkout is of another user
    return asked.stdout.strip()
