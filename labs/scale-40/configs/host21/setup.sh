ip address add 10.255.0.28/32 dev lo
ip address add 10.254.0.61/31 dev eth1
ip route replace default via 10.254.0.60 src 10.255.0.28
