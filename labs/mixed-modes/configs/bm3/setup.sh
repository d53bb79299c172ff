ip address add 10.10.0.253/24 dev eth1
ip address add fd00:10::253/64 dev eth1 nodad
ip link set eth1 up
ip route replace default via 10.10.0.1
ip -6 route replace default via fd00:10::1
