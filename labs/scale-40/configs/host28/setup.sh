ip address add 10.255.0.35/32 dev lo
ip address add 10.254.0.75/31 dev eth1
ip route replace default via 10.254.0.74 src 10.255.0.35
