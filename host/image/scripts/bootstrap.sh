# Runs as process 1 of private namespaces, still on the host's filesystem.
#
#   bootstrap.sh SUITE TARGET MIRROR KEYRING CACHE
#
# Fetches the packages of a minimal Debian, checks the archive's signature and
# theirs against it, and unpacks them at TARGET without running any of them.
set -eu
umask 022
mount --make-rprivate /
debootstrap --foreign --variant=minbase --force-check-gpg \
	--keyring="$4" --cache-dir="$5" "$1" "$2" "$3"
# Device nodes and, inside a container, links to the host's directories are in
# the way of what enter.sh mounts there.
rm -rf "$2/dev" "$2/proc" "$2/sys"
mkdir "$2/dev" "$2/proc" "$2/sys"
