ip address add 10.255.0.10/32 dev lo
ip address add 10.254.0.25/31 dev eth1
ip route replace default via 10.254.0.24 src 10.255.0.10
