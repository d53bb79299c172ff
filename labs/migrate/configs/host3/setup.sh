ip address add 10.254.0.13/31 dev eth2
ip route replace default via 10.254.0.12
