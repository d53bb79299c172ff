ip address add 10.255.0.37/32 dev lo
ip address add 10.254.0.79/31 dev eth1
ip route replace default via 10.254.0.78 src 10.255.0.37
