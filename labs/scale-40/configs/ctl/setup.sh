ip address add 10.254.0.17/31 dev eth1
ip address add 10.254.0.19/31 dev eth2
ip route replace default via 10.254.0.16
ip route replace 10.255.0.2 via 10.254.0.18
