ip address add 10.255.0.15/32 dev lo
ip address add 10.254.0.35/31 dev eth1
ip route replace default via 10.254.0.34 src 10.255.0.15
