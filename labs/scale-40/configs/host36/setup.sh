ip address add 10.255.0.43/32 dev lo
ip address add 10.254.0.91/31 dev eth1
ip route replace default via 10.254.0.90 src 10.255.0.43
