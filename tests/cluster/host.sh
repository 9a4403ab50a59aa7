# One host made of namespaces: it has a network, processes, mounts, a name, a home and a /tmp of its own.
# Started by hosts.py, as root; ends, with all it runs, when the process that started it ends.
#
#     host.sh network    in a new network namespace: plugs it into the switch, then goes on with ...
#     host.sh boot       in new namespaces for the rest: mounts, and sshd as process 1
#
# From hosts.py: NAME, ADDRESS (with /24), GATEWAY, SWITCH (a process), FOLDER, VISIBLE (paths, one a line).
set -euo pipefail

case $1 in
network)
    # The same hardware address at every start: other hosts remember it.
    ip link add eth0 address "$(printf '02:00:00:00:00:%02x' "${NAME#h}")" type veth peer name "$NAME" netns "$SWITCH"
    nsenter --target "$SWITCH" --net ip link set "$NAME" master switch up
    ip link set lo up
    ip addr add "$ADDRESS" dev eth0
    ip link set eth0 up
    # Ray learns its own address from the route to an address outside, where nothing needs to answer.
    ip route add default via "$GATEWAY"
    exec unshare --mount --propagation private --uts --ipc --pid --fork --kill-child bash "$0" boot
    ;;
boot)
    hostname "$NAME"
    mount -t proc proc /proc
    # Some of what must stay visible may lie below /tmp: it is put into the new one first.
    mkdir -p "$FOLDER/tmp"
    mount -t tmpfs -o mode=1777 tmp "$FOLDER/tmp"
    while read -r path; do
        case $path in /tmp/*)
            mkdir -p "$FOLDER$path"
            mount --bind "$path" "$FOLDER$path"
            mount -o remount,bind,ro "$FOLDER$path"
            ;;
        esac
    done <<<"$VISIBLE"
    mkdir "$FOLDER/tmp/home"
    mount --bind "$FOLDER/home" "$FOLDER/tmp/home" # on disk: it outlives the host's next start
    for file in passwd hosts; do mount --bind "$FOLDER/$file" "/etc/$file"; done
    # No resolver: a name that is not in /etc/hosts fails at once.
    mount --bind /dev/null "$(readlink -f /etc/resolv.conf)"
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t tmpfs -o mode=755 run /run
    mkdir /run/sshd /run/lock
    cp "$FOLDER/sshd_config" "$FOLDER/host_key" /run/sshd/
    chmod 600 /run/sshd/host_key
    mount --rbind "$FOLDER/tmp" /tmp # last: it hides $FOLDER
    cd /
    unset NAME ADDRESS GATEWAY SWITCH FOLDER VISIBLE
    exec /usr/sbin/sshd -D -e -f /run/sshd/sshd_config
    ;;
esac
