ip address add 10.99.0.1/31 dev eth1
ip address add fd00:99::3/127 dev eth1 nodad
ip link set eth1 up
ip address add 172.31.0.1/32 dev lo
ip address add fd31::1/128 dev lo
ip route replace default via 10.99.0.0
ip -6 route replace default via fd00:99::2
