sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
ip -batch - <<'END'
link add red type vrf table 1001
link set red up
route add table 1001 unreachable 0.0.0.0/0 metric 4278198272
route add table 1001 unreachable ::/0 metric 4278198272
link add br0 address 02:00:02:00:00:00 mtu 1450 type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0
link set br0 addrgenmode none
link set eth2 master br0 addrgenmode none
link set eth2 up
link set eth3 master br0 addrgenmode none
link set eth3 up
link set br0 up
link add vx10020 address 02:01:02:00:27:24 mtu 1450 type vxlan id 10020 local 10.255.0.3 dstport 4789 nolearning
link set vx10020 master br0 addrgenmode none
link set vx10020 type bridge_slave neigh_suppress on learning off flood off
link set vx10020 up
link add vx10066 address 02:01:02:00:27:52 mtu 1450 type vxlan id 10066 local 10.255.0.3 dstport 4789 nolearning
link set vx10066 master br0 addrgenmode none
link set vx10066 type bridge_slave neigh_suppress on learning off flood off
link set vx10066 up
link add link br0 name vlan20 address 00:00:5e:00:01:01 mtu 1450 type vlan id 20
link set vlan20 addrgenmode none
link set vlan20 master red
link set vlan20 up
link add link br0 name vlan66 address 00:00:5e:00:01:01 mtu 1450 type vlan id 66
link set vlan66 addrgenmode none
link set vlan66 master red
link set vlan66 up
link add br4001 address 02:02:0a:ff:00:03 mtu 1450 type bridge stp_state 0
link set br4001 master red addrgenmode none
link add vx4001 address 02:01:02:00:0f:a1 mtu 1450 type vxlan id 4001 local 10.255.0.3 dstport 4789 nolearning
link set vx4001 master br4001 addrgenmode none
link set vx4001 type bridge_slave learning off
link set br4001 up
link set vx4001 up
END
bridge -batch - <<'END'
vlan add dev vx10020 vid 20 pvid untagged
vlan add dev eth2 vid 20 pvid untagged
vlan add dev br0 vid 20 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 20 self permanent
vlan add dev vx10066 vid 66 pvid untagged
vlan add dev eth3 vid 66 pvid untagged
vlan add dev br0 vid 66 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 66 self permanent
END
# Addresses that FRR hears of before their devices are lost to it.
n=0; until vtysh -c 'show interface vlan66' 2>&1 | grep -q 'vrf: red' || [ $n -ge 50 ]; do n=$((n + 1)); sleep 0.2; done
ip -batch - <<'END'
address add 10.20.0.1/24 dev vlan20
address add fd00:20::1/64 dev vlan20 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan20 nodad
address add fd00:66::1/64 dev vlan66 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan66 nodad
END
sysctl -qew net.ipv4.conf.vlan20.arp_accept=1 net.ipv6.conf.vlan20.accept_untracked_na=1 net.ipv4.conf.vlan20.rp_filter=0 net.ipv4.conf.vlan66.arp_accept=1 net.ipv6.conf.vlan66.accept_untracked_na=1 net.ipv4.conf.vlan66.rp_filter=0 net.ipv4.conf.br4001.rp_filter=0
