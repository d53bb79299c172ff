ip address add 10.255.0.38/32 dev lo
ip address add 10.254.0.81/31 dev eth1
ip route replace default via 10.254.0.80 src 10.255.0.38
