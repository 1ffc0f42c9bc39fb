"""Stands in for EC2 on one machine: moto answers the AWS API, and hosts.sh boots a host for each instance.

The host has the private address that moto gave the instance, and is powered off when the instance ends. So the
unmodified AWS provider of `ray up` and the autoscaler on the head run from start to end, without AWS.

    fake_ec2.py serve          needs root, moto[server] and boto3; listens on the hosts' network only
    fake_ec2.py reclaim N      ends worker N of those that run, as EC2 does with spot instances
    fake_ec2.py ls             lists the instances
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

GATEWAY, PORT, SLOTS = "172.31.0.1", 5555, 16
AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_ENDPOINT_URL": f"http://{GATEWAY}:{PORT}",
}
NETWORK = {
    "NET": "172.31.0",
    "GW": GATEWAY,
    "PFX": "16",
    "BR": "br-ec2",
    "P": "ec2h",
    "S": "/tmp/fake_ec2",
    "N": str(SLOTS),
}
FOLDER = Path(NETWORK["S"])


class Instance(NamedTuple):
    id: str
    state: str
    address: str
    type: str
    life: str
    role: str


def hosts(*words: str) -> str:
    """Runs a command of hosts.sh, and returns what it prints."""
    script = str(Path(__file__).with_name("hosts.sh"))
    given = {**os.environ, **NETWORK}
    done = subprocess.run(["bash", script, *words], env=given, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}".strip()


def client() -> Any:
    import boto3  # it reads the variables of AWS when it is imported

    return boto3.client("ec2")


def instances() -> list[Instance]:
    """Returns all instances that moto knows."""
    found = []
    for reservation in client().describe_instances()["Reservations"]:
        for each in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
            found.append(
                Instance(
                    each["InstanceId"],
                    each["State"]["Name"],
                    str(each.get("PrivateIpAddress")),
                    each["InstanceType"],
                    each.get("InstanceLifecycle", "on-demand"),
                    str(tags.get("ray-node-type")),
                )
            )
    return found


def reclaim(number: int) -> None:
    """Ends a worker."""
    worker = [each for each in instances() if each.state == "running" and each.role == "worker"][number]
    client().terminate_instances(InstanceIds=[worker.id])
    print("reclaimed", *worker)


def serve() -> None:
    """Answers until a signal comes, and powers all hosts off then."""
    # A job in the background starts with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(hosts("lan"), flush=True)
    with (FOLDER / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", GATEWAY, "-p", str(PORT)],
            env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    slots: dict[str, int] = {}
    running: set[str] = set()
    started = time.monotonic()
    try:
        while True:
            time.sleep(0.5)
            try:
                found = instances()
            except Exception:  # the server takes some seconds to start, and may answer late under load
                if time.monotonic() - started > 30:
                    raise
                continue
            for each in found:
                if each.state == "running" and each.id not in slots:
                    slot = slots[each.id] = len(slots)
                    (FOLDER / f"ip_{slot}").write_text(each.address)
                    print("boot", *each, hosts("boot", str(slot)), flush=True)
                    running.add(each.id)
                elif each.state != "running" and each.id in running:
                    print("off", *each, hosts("power", str(slots[each.id])), flush=True)
                    running.remove(each.id)
    finally:
        server.terminate()
        for name in running:
            hosts("power", str(slots[name]))
        subprocess.run(["ip", "link", "del", NETWORK["BR"]], check=False)


def main(words: list[str]) -> None:
    os.environ.update(AWS)
    match words:
        case ["serve"]:
            serve()
        case ["reclaim", number]:
            reclaim(int(number))
        case ["ls"]:
            for each in instances():
                print(*each)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
