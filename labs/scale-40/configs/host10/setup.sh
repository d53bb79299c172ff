ip address add 10.255.0.17/32 dev lo
ip address add 10.254.0.39/31 dev eth1
ip route replace default via 10.254.0.38 src 10.255.0.17
