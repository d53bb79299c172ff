ip address add 10.255.0.14/32 dev lo
ip address add 10.254.0.33/31 dev eth1
ip route replace default via 10.254.0.32 src 10.255.0.14
