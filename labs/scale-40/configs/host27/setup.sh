ip address add 10.255.0.34/32 dev lo
ip address add 10.254.0.73/31 dev eth1
ip route replace default via 10.254.0.72 src 10.255.0.34
