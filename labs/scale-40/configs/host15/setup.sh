ip address add 10.255.0.22/32 dev lo
ip address add 10.254.0.49/31 dev eth1
ip route replace default via 10.254.0.48 src 10.255.0.22
