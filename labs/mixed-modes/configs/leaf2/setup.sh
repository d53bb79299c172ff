sysctl -qw net.ipv6.conf.all.forwarding=1
