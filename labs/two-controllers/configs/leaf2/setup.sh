ip link add br100 address 02:00:02:00:00:64 type bridge stp_state 0
ip link set br100 addrgenmode none
ip link add vx100 address 02:01:02:00:00:64 type vxlan id 100 local 10.255.0.3 dstport 4789 nolearning
ip link set vx100 master br100 addrgenmode none
ip link set vx100 type bridge_slave neigh_suppress on learning off
ip link set eth3 master br100 addrgenmode none
ip link set br100 up
ip link set vx100 up
ip link set eth3 up
