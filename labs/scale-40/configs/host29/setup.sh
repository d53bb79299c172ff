ip address add 10.255.0.36/32 dev lo
ip address add 10.254.0.77/31 dev eth1
ip route replace default via 10.254.0.76 src 10.255.0.36
