ip address add 10.255.0.25/32 dev lo
ip address add 10.254.0.55/31 dev eth1
ip route replace default via 10.254.0.54 src 10.255.0.25
