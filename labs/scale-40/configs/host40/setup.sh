ip address add 10.255.0.47/32 dev lo
ip address add 10.254.0.99/31 dev eth1
ip route replace default via 10.254.0.98 src 10.255.0.47
