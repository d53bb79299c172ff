ip address add 10.255.0.21/32 dev lo
ip address add 10.254.0.47/31 dev eth1
ip route replace default via 10.254.0.46 src 10.255.0.21
