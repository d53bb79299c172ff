ip address add 10.255.0.6/32 dev lo
ip address add 10.254.0.11/31 dev eth1
ip route replace default via 10.254.0.10 src 10.255.0.6
sysctl -qw net.ipv6.conf.all.forwarding=1
