ip address add 10.255.0.45/32 dev lo
ip address add 10.254.0.95/31 dev eth1
ip route replace default via 10.254.0.94 src 10.255.0.45
