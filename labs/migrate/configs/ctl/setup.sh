ip address add 10.254.0.7/31 dev eth1
ip route replace default via 10.254.0.6
