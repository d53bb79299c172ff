sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
ip -batch - <<'END'
link add red type vrf table 1001
link set red up
route add table 1001 unreachable 0.0.0.0/0 metric 4278198272
route add table 1001 unreachable ::/0 metric 4278198272
link add br0 address 02:00:01:00:00:00 mtu 1450 type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0
link set br0 addrgenmode none
link set eth2 master br0 addrgenmode none
link set eth2 up
link set br0 up
link add vx10010 address 02:01:01:00:27:1a mtu 1450 type vxlan id 10010 local 10.255.0.2 dstport 4789 nolearning
link set vx10010 master br0 addrgenmode none
link set vx10010 type bridge_slave neigh_suppress on learning off
link set vx10010 up
link add vx10020 address 02:01:01:00:27:24 mtu 1450 type vxlan id 10020 local 10.255.0.2 dstport 4789 nolearning
link set vx10020 master br0 addrgenmode none
link set vx10020 type bridge_slave neigh_suppress on learning off
link set vx10020 up
link add link br0 name vlan10 address 00:00:5e:00:01:01 mtu 1450 type vlan id 10
link set vlan10 addrgenmode none
link set vlan10 master red
link set vlan10 up
link add link br0 name vlan20 address 00:00:5e:00:01:01 mtu 1450 type vlan id 20
link set vlan20 addrgenmode none
link set vlan20 master red
link set vlan20 up
link add br4001 address 02:02:0a:ff:00:02 mtu 1450 type bridge stp_state 0
link set br4001 master red addrgenmode none
link add vx4001 address 02:01:01:00:0f:a1 mtu 1450 type vxlan id 4001 local 10.255.0.2 dstport 4789 nolearning
link set vx4001 master br4001 addrgenmode none
link set vx4001 type bridge_slave learning off
link set br4001 up
link set vx4001 up
END
bridge -batch - <<'END'
vlan add dev vx10010 vid 10 pvid untagged
vlan add dev eth2 vid 10
vlan add dev br0 vid 10 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 10 self permanent
vlan add dev vx10020 vid 20 pvid untagged
vlan add dev eth2 vid 20
vlan add dev br0 vid 20 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 20 self permanent
END
# Addresses that FRR hears of before their devices are lost to it.
n=0; until vtysh -c 'show interface vlan20' 2>&1 | grep -q 'vrf: red' || [ $n -ge 50 ]; do n=$((n + 1)); sleep 0.2; done
ip -batch - <<'END'
address add 10.10.0.1/24 dev vlan10
address add fd00:10::1/64 dev vlan10 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan10 nodad
address add 10.20.0.1/24 dev vlan20
address add fd00:20::1/64 dev vlan20 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan20 nodad
END
sysctl -qew net.ipv4.conf.vlan10.arp_accept=1 net.ipv6.conf.vlan10.accept_untracked_na=1 net.ipv4.conf.vlan10.rp_filter=0 net.ipv4.conf.vlan20.arp_accept=1 net.ipv6.conf.vlan20.accept_untracked_na=1 net.ipv4.conf.vlan20.rp_filter=0 net.ipv4.conf.br4001.rp_filter=0
