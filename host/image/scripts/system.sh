# Runs inside the new Debian.
#
#   system.sh MIRROR SECURITY SUITE PACKAGE...
#
# Brings it up to date from the security archive and adds PACKAGEs.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
mirror=$1 security=$2 suite=$3
shift 3
cat >/etc/apt/sources.list <<END
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
END
echo 'Acquire::Languages "none";' >/etc/apt/apt.conf.d/hutch
if [ -e /run/hutch/trust.pem ]; then
	echo 'Acquire::https::CAInfo "/run/hutch/trust.pem";' >/etc/apt/apt.conf.d/zz-hutch-build
fi
apt-get -q update
apt-get -q -y dist-upgrade
apt-get -q -y --no-install-recommends install "$@"
if [ -d /run/hutch/extra-ca ]; then
	cp /run/hutch/extra-ca/*.crt /usr/local/share/ca-certificates/
	update-ca-certificates
fi
mkdir -p /workspace
