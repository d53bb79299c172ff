ip address add 10.100.0.250/24 dev eth1
ip link set eth1 up
