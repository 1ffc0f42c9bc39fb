"""Ray is started for this machine alone, with a token of its own, and joined as it is on a cluster."""

import pytest

from tune.processes import session


def test_after_ray_is_started_sigterm_is_ours_again(monkeypatch):
    done = []
    monkeypatch.setattr(session.ray, "init", lambda **words: done.append("ray"))
    monkeypatch.setattr(session, "end_on_sigterm", lambda: done.append("ours"))
    monkeypatch.setattr(session.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(session.os, "environ", dict(session.os.environ))
    session.start_ray("local", 1, verbose=False)
    assert done == ["ray", "ours"]


def test_a_local_search_has_a_token_of_its_own_and_keeps_none_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(session.ray, "init", lambda **words: None)
    monkeypatch.setattr(session, "end_on_sigterm", lambda: None)
    monkeypatch.setattr(session.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(session.os, "environ", {"HOME": str(tmp_path)})
    session.start_ray("10.0.0.1:6379", 1, verbose=False)
    assert "RAY_AUTH_TOKEN" not in session.os.environ  # a cluster has its own
    session.start_ray("local", 1, verbose=False)
    assert len(session.os.environ["RAY_AUTH_TOKEN"]) == 64
    session.os.environ["RAY_AUTH_TOKEN"] = "mine"
    session.start_ray("local", 1, verbose=False)
    assert session.os.environ["RAY_AUTH_TOKEN"] == "mine"


@pytest.mark.parametrize(("address", "options"), [("local", {"num_cpus": 4, "include_dashboard": False}), ("auto", {})])
def test_ray_is_started_with_this_machines_cores_and_joined_with_its_own(address, options, monkeypatch):
    found = {}
    monkeypatch.setattr(session.ray, "init", lambda **words: found.update(words))
    session.start_ray(address, 4, verbose=False)
    assert found.pop("address") == address
    assert (found.pop("log_to_driver"), found.pop("logging_level")) == (False, 40)  # errors alone
    assert found == options
