ip address add 10.255.0.27/32 dev lo
ip address add 10.254.0.59/31 dev eth1
ip route replace default via 10.254.0.58 src 10.255.0.27
