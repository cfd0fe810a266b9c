# Runs inside a Debian made by system.sh.
#
#   python.sh PACKAGE...
#
# Adds Debian's Python. Users are root of a sandbox of their own, so pip may
# install into it: the mark that forbids it is moved aside.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
if [ -e /run/hutch/trust.pem ]; then
	echo 'Acquire::https::CAInfo "/run/hutch/trust.pem";' >/etc/apt/apt.conf.d/zz-hutch-build
fi
apt-get -q update
apt-get -q -y --no-install-recommends install "$@"
for mark in /usr/lib/python3*/EXTERNALLY-MANAGED; do
	[ -e "$mark" ] || continue
	dpkg-divert --quiet --rename --divert "$mark.debian" --add "$mark"
done
mkdir -p /usr/local/go
