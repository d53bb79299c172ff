ip address add 10.255.0.41/32 dev lo
ip address add 10.254.0.87/31 dev eth1
ip route replace default via 10.254.0.86 src 10.255.0.41
