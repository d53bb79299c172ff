ip address add 10.255.0.39/32 dev lo
ip address add 10.254.0.83/31 dev eth1
ip route replace default via 10.254.0.82 src 10.255.0.39
