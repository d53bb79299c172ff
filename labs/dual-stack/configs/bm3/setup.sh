ip address add fd00:66::250/64 dev eth1 nodad
ip link set eth1 up
ip -6 route replace default via fd00:66::1
