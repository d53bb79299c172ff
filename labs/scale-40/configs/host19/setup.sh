ip address add 10.255.0.26/32 dev lo
ip address add 10.254.0.57/31 dev eth1
ip route replace default via 10.254.0.56 src 10.255.0.26
