ip address add 10.255.0.12/32 dev lo
ip address add 10.254.0.29/31 dev eth1
ip route replace default via 10.254.0.28 src 10.255.0.12
