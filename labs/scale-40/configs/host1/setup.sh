ip address add 10.255.0.8/32 dev lo
ip address add 10.254.0.21/31 dev eth1
ip route replace default via 10.254.0.20 src 10.255.0.8
