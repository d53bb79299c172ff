ip address add 10.255.0.9/32 dev lo
ip address add 10.254.0.23/31 dev eth1
ip route replace default via 10.254.0.22 src 10.255.0.9
