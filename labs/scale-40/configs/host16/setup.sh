ip address add 10.255.0.23/32 dev lo
ip address add 10.254.0.51/31 dev eth1
ip route replace default via 10.254.0.50 src 10.255.0.23
