ip address add 10.255.0.40/32 dev lo
ip address add 10.254.0.85/31 dev eth1
ip route replace default via 10.254.0.84 src 10.255.0.40
