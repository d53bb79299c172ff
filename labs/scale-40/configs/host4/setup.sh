ip address add 10.255.0.11/32 dev lo
ip address add 10.254.0.27/31 dev eth1
ip route replace default via 10.254.0.26 src 10.255.0.11
