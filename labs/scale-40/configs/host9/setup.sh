ip address add 10.255.0.16/32 dev lo
ip address add 10.254.0.37/31 dev eth1
ip route replace default via 10.254.0.36 src 10.255.0.16
