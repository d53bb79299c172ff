sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
ip -batch - <<'END'
link add blue type vrf table 1001
link set blue up
route add table 1001 unreachable 0.0.0.0/0 metric 4278198272
route add table 1001 unreachable ::/0 metric 4278198272
link add red type vrf table 1002
link set red up
route add table 1002 unreachable 0.0.0.0/0 metric 4278198272
route add table 1002 unreachable ::/0 metric 4278198272
link add br0 address 02:00:01:00:00:00 mtu 1450 type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0
link set br0 addrgenmode none
link set eth2 master br0 addrgenmode none
link set eth2 up
link set eth3 master br0 addrgenmode none
link set eth3 up
link set eth4 master br0 addrgenmode none
link set eth4 up
link set br0 up
link add vx11010 address 02:01:01:00:2b:02 mtu 1450 type vxlan id 11010 local 10.255.0.2 dstport 4789 nolearning
link set vx11010 master br0 addrgenmode none
link set vx11010 type bridge_slave neigh_suppress on learning off flood off
link set vx11010 up
link add vx11011 address 02:01:01:00:2b:03 mtu 1450 type vxlan id 11011 local 10.255.0.2 dstport 4789 nolearning
link set vx11011 master br0 addrgenmode none
link set vx11011 type bridge_slave neigh_suppress on learning off flood off
link set vx11011 up
link add vx12010 address 02:01:01:00:2e:ea mtu 1450 type vxlan id 12010 local 10.255.0.2 dstport 4789 nolearning
link set vx12010 master br0 addrgenmode none
link set vx12010 type bridge_slave neigh_suppress on learning off flood off
link set vx12010 up
link add link br0 name vlan10 address 00:00:5e:00:01:01 mtu 1450 type vlan id 10
link set vlan10 addrgenmode none
link set vlan10 master red
link set vlan10 up
link add link br0 name vlan11 address 00:00:5e:00:01:01 mtu 1450 type vlan id 11
link set vlan11 addrgenmode none
link set vlan11 master red
link set vlan11 up
link add link br0 name vlan110 address 00:00:5e:00:01:01 mtu 1450 type vlan id 110
link set vlan110 addrgenmode none
link set vlan110 master blue
link set vlan110 up
link add br4002 address 02:02:0a:ff:00:02 mtu 1450 type bridge stp_state 0
link set br4002 master blue addrgenmode none
link add vx4002 address 02:01:01:00:0f:a2 mtu 1450 type vxlan id 4002 local 10.255.0.2 dstport 4789 nolearning
link set vx4002 master br4002 addrgenmode none
link set vx4002 type bridge_slave learning off
link set br4002 up
link set vx4002 up
link add br4001 address 02:02:0a:ff:00:02 mtu 1450 type bridge stp_state 0
link set br4001 master red addrgenmode none
link add vx4001 address 02:01:01:00:0f:a1 mtu 1450 type vxlan id 4001 local 10.255.0.2 dstport 4789 nolearning
link set vx4001 master br4001 addrgenmode none
link set vx4001 type bridge_slave learning off
link set br4001 up
link set vx4001 up
END
bridge -batch - <<'END'
vlan add dev vx11010 vid 10 pvid untagged
vlan add dev eth2 vid 10 pvid untagged
vlan add dev br0 vid 10 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 10 self permanent
vlan add dev vx11011 vid 11 pvid untagged
vlan add dev eth4 vid 11 pvid untagged
vlan add dev br0 vid 11 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 11 self permanent
vlan add dev vx12010 vid 110 pvid untagged
vlan add dev eth3 vid 110 pvid untagged
vlan add dev br0 vid 110 self
fdb add 00:00:5e:00:01:01 dev br0 vlan 110 self permanent
END
# Addresses that FRR hears of before their devices are lost to it.
n=0; until vtysh -c 'show interface vlan110' 2>&1 | grep -q 'vrf: blue' || [ $n -ge 50 ]; do n=$((n + 1)); sleep 0.2; done
ip -batch - <<'END'
address add 10.10.0.1/24 dev vlan10
address add fd00:a::1/64 dev vlan10 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan10 nodad
address add 10.11.0.1/24 dev vlan11
address add fd00:b::1/64 dev vlan11 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan11 nodad
address add 10.10.0.1/24 dev vlan110
address add fd00:a::1/64 dev vlan110 metric 1 nodad
address add fe80::200:5eff:fe00:101/64 dev vlan110 nodad
END
sysctl -qew net.ipv4.conf.vlan10.arp_accept=1 net.ipv6.conf.vlan10.accept_untracked_na=1 net.ipv4.conf.vlan10.rp_filter=0 net.ipv4.conf.vlan11.arp_accept=1 net.ipv6.conf.vlan11.accept_untracked_na=1 net.ipv4.conf.vlan11.rp_filter=0 net.ipv4.conf.vlan110.arp_accept=1 net.ipv6.conf.vlan110.accept_untracked_na=1 net.ipv4.conf.vlan110.rp_filter=0 net.ipv4.conf.br4002.rp_filter=0 net.ipv4.conf.br4001.rp_filter=0
