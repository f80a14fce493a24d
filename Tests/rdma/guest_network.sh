# Sourced in the guest, by sh: its network devices and, unless `net` says none, the Soft-RoCE devices on them.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
ip link add v0 mtu 9000 type veth peer name v1 mtu 9000
case $(cat "$job/net") in
one)
    ip addr add 10.9.0.1/24 dev v0
    ip link set v0 up
    ip link set v1 up
    rdma link add rxe0 type rxe netdev v0
    ;;
two)
    settings=/proc/sys/net/ipv4/conf
    for name in all default v0 v1; do
        echo 0 >$settings/$name/rp_filter
        echo 1 >$settings/$name/accept_local
    done
    ip addr add 10.9.0.1/32 dev v0
    ip addr add 10.9.1.1/32 dev v1
    ip link set v0 up
    ip link set v1 up
    # What arrives at either end is local; what is sent from one to the other goes out on the cable.
    ip rule add pref 10 iif v0 lookup local
    ip rule add pref 11 iif v1 lookup local
    ip rule add pref 12 from 10.9.0.1 to 10.9.0.1 lookup local
    ip rule add pref 13 from 10.9.1.1 to 10.9.1.1 lookup local
    ip rule add pref 20 from 10.9.0.1 to 10.9.1.1 lookup 101
    ip rule add pref 21 from 10.9.1.1 to 10.9.0.1 lookup 102
    ip route add 10.9.1.1 dev v0 src 10.9.0.1 table 101
    ip route add 10.9.0.1 dev v1 src 10.9.1.1 table 102
    ip rule add pref 1000 lookup local
    ip rule del pref 0
    ip neigh add 10.9.1.1 lladdr "$(cat /sys/class/net/v1/address)" dev v0 nud permanent
    ip neigh add 10.9.0.1 lladdr "$(cat /sys/class/net/v0/address)" dev v1 nud permanent
    rdma link add rxe0 type rxe netdev v0
    rdma link add rxe1 type rxe netdev v1
    ;;
none)
    ip addr add 10.9.0.1/24 dev v0
    ip link set v0 up
    ip link set v1 up
    ;;
esac
