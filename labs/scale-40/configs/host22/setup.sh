ip address add 10.255.0.29/32 dev lo
ip address add 10.254.0.63/31 dev eth1
ip route replace default via 10.254.0.62 src 10.255.0.29
