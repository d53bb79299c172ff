ip address add 10.255.0.24/32 dev lo
ip address add 10.254.0.53/31 dev eth1
ip route replace default via 10.254.0.52 src 10.255.0.24
