# Runs inside the new Debian: configures what bootstrap.sh unpacked.
mkdir -p /etc/dpkg/dpkg.cfg.d
# A template is built in a directory that is thrown away when anything fails.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/hutch-build
# Manuals, translations and the like stay out, now and when users add packages.
cat >/etc/dpkg/dpkg.cfg.d/hutch <<'END'
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/bug/*
END
# No service is ever started by installing a package.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
/debootstrap/debootstrap --second-stage
# What was copied from this machine goes again.
: >/etc/resolv.conf
echo sandbox >/etc/hostname
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >/etc/hosts
chmod 0644 /etc/resolv.conf /etc/hostname /etc/hosts
