ip address add 10.254.0.9/31 dev eth2
ip route replace default via 10.254.0.8
