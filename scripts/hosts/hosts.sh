#!/usr/bin/env bash
# Hosts on one machine, which `ray up` treats as real ones. Each has its own network, mounts, processes, name and sshd.
#     hosts.sh up | lan | boot I | ssh I COMMAND | kill9 I | cut I | mend I | power I | status | down
# Host 0 is the head, the others are workers. A host's own are its network, /tmp, /dev/shm, /root (into which only the
# interpreter's folder is bound) and its process ids, so that `ray stop` stops what runs on this host alone. The rest of
# / is shared, so that $VENV is installed on every host.
# It needs root and `apt-get install iproute2 openssh-server openssh-client rsync`.
set -euo pipefail

VENV=${VENV:?set VENV to the virtual environment that every host should see}
N=${N:-3}                     # how many hosts
NET=${NET:-10.77.0}           # their network: host I is $NET.(10+I), unless $S/ip_I holds another address
GW=${GW:-$NET.1}
PFX=${PFX:-24}
BR=${BR:-br-ray}              # the bridge
P=${P:-rayh}                  # the prefix of the hosts' names
S=${S:-/tmp/test_hosts}       # keys, logs, the hosts' folders; it must be /tmp/NAME
KEY=$S/id_ed25519
SSH=(ssh -i "$KEY" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=5)

address() { cat "$S/ip_$1" 2>/dev/null || echo "$NET.$((10 + $1))"; }

# Runs within the new namespaces, as process 1 of the host.
init() {
    local i=$1 h=$S/h$1 base
    mount --make-rprivate /
    mkdir -p "$h/root/.ssh" "$h/tmp" "$h/run"
    base=$("$VENV/bin/python" -c 'import sys; print(sys.base_prefix)')
    case $base in /root/*) mkdir -p "$h$base"; mount --bind "$base" "$h$base" ;; esac
    cp "$KEY.pub" "$h/root/.ssh/authorized_keys"
    chmod 700 "$h/root" "$h/root/.ssh"
    chmod 600 "$h/root/.ssh/authorized_keys"
    [[ -f $h/root/.bashrc ]] ||
        echo "export PATH=$VENV/bin:\$PATH RAY_USAGE_STATS_ENABLED=0 LANG=C.UTF-8" >"$h/root/.bashrc"
    [[ -f $h/root/.bash_profile ]] || echo '. ~/.bashrc' >"$h/root/.bash_profile"
    mount -t tmpfs -o size=4g tmpfs /dev/shm
    mount --rbind "$h/root" /root
    # $S must be seen below the host's own /tmp.
    mkdir -p "$h/tmp/$(basename "$S")"
    mount --bind "$S" "$h/tmp/$(basename "$S")"
    mount --rbind "$h/tmp" /tmp
    chmod 1777 /tmp
    hostname "$P$i"
    # torch.distributed looks up the host's name, and waits for its whole time limit where nobody answers.
    { echo '127.0.0.1 localhost'; for j in $(seq 0 $((N - 1))); do echo "$(address "$j") $P$j"; done; } >"$h/hosts"
    mount --bind "$h/hosts" /etc/hosts
    ip link set lo up
    mkdir -p /run/sshd
    exec /usr/sbin/sshd -D -e -f "$S/sshd_$i.conf" >"$S/sshd_$i.log" 2>&1
}

lan() {
    mkdir -p "$S"
    [[ -f $KEY ]] || ssh-keygen -q -t ed25519 -N '' -f "$KEY"
    ip link show "$BR" >/dev/null 2>&1 ||
        { ip link add "$BR" type bridge; ip addr add "$GW/$PFX" dev "$BR"; ip link set "$BR" up; }
}

boot() {
    local i=$1 ip
    ip=$(address "$i")
    ip netns add "$P$i"
    ip link add "$P$i-v" type veth peer name eth0 netns "$P$i"
    ip link set "$P$i-v" master "$BR" up
    ip -n "$P$i" addr add "$ip/$PFX" dev eth0
    ip -n "$P$i" link set eth0 up
    ip -n "$P$i" route add default via "$GW"
    cat >"$S/sshd_$i.conf" <<CONFIG
ListenAddress $ip
HostKey $S/host_$i
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
Subsystem sftp internal-sftp
CONFIG
    [[ -f $S/host_$i ]] || ssh-keygen -q -t ed25519 -N '' -f "$S/host_$i"
    # With --kill-child, the end of `unshare` powers the host off: its process 1 ends, and with it all the others.
    setsid nohup ip netns exec "$P$i" unshare --mount --pid --uts --ipc --fork --kill-child --mount-proc \
        env N="$N" NET="$NET" GW="$GW" PFX="$PFX" P="$P" S="$S" VENV="$VENV" \
        bash "$(readlink -f "$0")" _init "$i" >"$S/boot_$i.log" 2>&1 </dev/null &
    echo $! >"$S/pid_$i"
    for _ in $(seq 50); do
        "${SSH[@]}" "root@$ip" true 2>/dev/null && { echo "host $i up at $ip"; return; }
        sleep .1
    done
    echo "host $i did not start"
    cat "$S/boot_$i.log" "$S/sshd_$i.log"
    return 1
}

power() {
    kill -9 "$(cat "$S/pid_$1")" 2>/dev/null || true
    ip netns del "$P$1" 2>/dev/null || true
    echo "host $1 powered off"
}

case ${1:-} in
_init) init "$2" ;;
up) lan; for i in $(seq 0 $((N - 1))); do boot "$i"; done ;;
lan) lan ;;
boot) boot "$2" ;;
power) power "$2" ;;
cut) ip link set "$P$2-v" down; echo "host $2 unplugged" ;;
mend) ip link set "$P$2-v" up; echo "host $2 plugged in" ;;
kill9) "${SSH[@]}" "root@$(address "$2")" \
    'for p in $(ps -eo pid,args | awk "/[r]aylet\/raylet /{print \$1}"); do kill -9 $p; echo killed raylet $p; done' ;;
ssh) i=$2; shift 2; "${SSH[@]}" "root@$(address "$i")" "$@" ;;
status) for i in $(seq 0 $((N - 1))); do
    printf '%s ' "$P$i $(address "$i")"; ip link show "$P$i-v" 2>/dev/null | grep -o 'state [A-Z]*' || echo absent
    done ;;
down) for i in $(seq 0 $((N - 1))); do power "$i"; done
    ip link del "$BR" 2>/dev/null || true
    sleep .3
    rm -rf "$S"/h?/tmp "$S"/h?/run ;;
*) sed -n 2,7p "$0"; exit 2 ;;
esac
