ip address add 10.255.0.33/32 dev lo
ip address add 10.254.0.71/31 dev eth1
ip route replace default via 10.254.0.70 src 10.255.0.33
