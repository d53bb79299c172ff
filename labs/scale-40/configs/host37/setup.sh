ip address add 10.255.0.44/32 dev lo
ip address add 10.254.0.93/31 dev eth1
ip route replace default via 10.254.0.92 src 10.255.0.44
