ip address add 10.255.0.13/32 dev lo
ip address add 10.254.0.31/31 dev eth1
ip route replace default via 10.254.0.30 src 10.255.0.13
