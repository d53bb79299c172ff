ip address add 10.255.0.18/32 dev lo
ip address add 10.254.0.41/31 dev eth1
ip route replace default via 10.254.0.40 src 10.255.0.18
