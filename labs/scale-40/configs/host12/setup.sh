ip address add 10.255.0.19/32 dev lo
ip address add 10.254.0.43/31 dev eth1
ip route replace default via 10.254.0.42 src 10.255.0.19
