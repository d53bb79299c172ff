ip address add 10.255.0.32/32 dev lo
ip address add 10.254.0.69/31 dev eth1
ip route replace default via 10.254.0.68 src 10.255.0.32
