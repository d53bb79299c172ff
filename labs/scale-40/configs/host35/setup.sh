ip address add 10.255.0.42/32 dev lo
ip address add 10.254.0.89/31 dev eth1
ip route replace default via 10.254.0.88 src 10.255.0.42
