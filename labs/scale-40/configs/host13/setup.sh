ip address add 10.255.0.20/32 dev lo
ip address add 10.254.0.45/31 dev eth1
ip route replace default via 10.254.0.44 src 10.255.0.20
