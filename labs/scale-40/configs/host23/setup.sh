ip address add 10.255.0.30/32 dev lo
ip address add 10.254.0.65/31 dev eth1
ip route replace default via 10.254.0.64 src 10.255.0.30
