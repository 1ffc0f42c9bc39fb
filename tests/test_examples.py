"""The examples run as a reader would run them, and do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_ten_lines_of_reinforce_learn_which_token_matters():
    command = [sys.executable, str(EXAMPLES / "reinforce.py")]
    # Tensors this small gain nothing from a second thread, and wait for it where the machine is busy.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    before, after = map(float, re.fullmatch(r"mean reward before (\S+), after (\S+)\n", done.stdout).groups())
    # Marker and first token are 2 of 11: −0.18. Two fillers more would be below −0.35, a lost marker far below.
    assert after > before + 0.3
    assert after > -0.35
