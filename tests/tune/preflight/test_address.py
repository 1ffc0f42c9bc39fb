"""The address of a cluster: its form, and what answers there."""

import re
import socket
import threading

import pytest

from trbert.errors import InputError
from tune.preflight import address
from tune.preflight.address import check_answer, check_form

REMEDY = "give the address of a running cluster, such as 10.0.0.1:6379, or leave it out to search on this machine"
SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("good", ["auto", "10.0.0.1:6379", "head.local:6379", "ray://head:10001", "[::1]:6379"])
def test_an_address_is_auto_or_a_host_with_a_port(good):
    check_form(good)


@pytest.mark.parametrize(
    "wrong", ["head", "head:0", "head:65536", "head:x", "a b:1", "ssh://head:22", ":6379", "1:2:3"]
)
def test_another_form_is_refused(wrong):
    told = f"--address must be 'auto', or a host with a port from 1 to 65535, and is {wrong!r}: {REMEDY}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        check_form(wrong)


def test_the_address_of_a_job_server_is_no_clusters_and_the_message_says_where_it_came_from(monkeypatch):
    job_server = "http://127.0.0.1:8265"
    told = f"--address {job_server} must be of a running Ray cluster, and is that of a job server, for `ray job submit`"
    with pytest.raises(InputError, match=f"^{re.escape(told)}: {REMEDY}$"):
        check_form(job_server)
    monkeypatch.setenv("RAY_ADDRESS", job_server)
    for asked in (job_server, "auto"):  # Ray takes the environment's address where it is to find one
        with pytest.raises(InputError, match=r"^RAY_ADDRESS http://.*, or unset it to search on this machine$"):
            check_form(asked)


@pytest.fixture
def server(monkeypatch):
    """A function that answers one connection with these bytes, and returns its address."""
    monkeypatch.setattr(address, "PATIENCE_S", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(answer):
        def run():
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody called before the test ended
                return
            with connection:
                connection.recv(1000)
                connection.sendall(answer)
                done.wait(10)

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    done = threading.Event()
    yield serve
    done.set()
    listener.close()


def test_a_server_that_speaks_rays_protocol_is_taken(server):
    check_answer(server(SETTINGS_FRAME))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH\r\n", b"", b"ab"])
def test_a_server_of_something_else_is_told_at_once_and_so_is_one_that_says_nothing(server, answer):
    place = server(answer)
    told = f"--address {place} must be of a running Ray cluster, and what answers there is something else: {REMEDY}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        check_answer(place)


def test_with_tls_only_the_connection_is_tried(server, monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    check_answer(server(b"?"))


def test_an_address_at_which_nothing_listens_is_told():
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    with pytest.raises(
        InputError, match=rf"^--address 127\.0\.0\.1:{port} .*nothing answers there \(Connection refused"
    ):
        check_answer(f"127.0.0.1:{port}")
