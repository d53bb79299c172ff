ip -batch - <<'END'
link add br0 address 02:00:03:00:00:00 mtu 1450 type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0
link set br0 addrgenmode none
link set eth2 master br0 addrgenmode none
link set eth2 up
link set br0 up
link add vx10010 address 02:01:03:00:27:1a mtu 1450 type vxlan id 10010 local 10.255.0.4 dstport 4789 learning
link set vx10010 master br0 addrgenmode none
link set vx10010 type bridge_slave neigh_suppress off learning on
link set vx10010 up
END
bridge -batch - <<'END'
fdb append 00:00:00:00:00:00 dev vx10010 dst 10.255.0.2 self permanent
fdb append 00:00:00:00:00:00 dev vx10010 dst 10.255.0.3 self permanent
fdb append 00:00:00:00:00:00 dev vx10010 dst 10.255.0.6 self permanent
vlan add dev vx10010 vid 10 pvid untagged
vlan add dev eth2 vid 10 pvid untagged
END
