# Makes bond0 of eth0 and eth1. LACP takes no card in whose speed and duplex mode it does not know.
set -e
modprobe bonding mode=802.3ad miimon=100 lacp_rate=fast
for card in eth0 eth1; do
    ethtool -s $card speed 1000 duplex full
    ip link set $card down
    echo +$card >/sys/class/net/bond0/bonding/slaves
done
ip addr add "$1" dev bond0
ip link set bond0 up
