ip address add 10.255.0.46/32 dev lo
ip address add 10.254.0.97/31 dev eth1
ip route replace default via 10.254.0.96 src 10.255.0.46
