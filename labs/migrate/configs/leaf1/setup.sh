ip -batch - <<'END'
link add br100 address 02:00:01:00:00:64 type bridge stp_state 0
link set br100 addrgenmode none
link set eth3 master br100 addrgenmode none
link set eth3 up
link set br100 up
link add vx100 address 02:01:01:00:00:64 mtu 1450 type vxlan id 100 local 10.255.0.2 dstport 4789 nolearning
link set vx100 master br100 addrgenmode none
link set vx100 type bridge_slave neigh_suppress on learning off
link set vx100 up
END
