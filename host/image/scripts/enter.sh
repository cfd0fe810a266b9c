# Runs as process 1 of private mount, process, host name and IPC namespaces.
#
#   enter.sh ROOT ro|rw [SOURCE TARGET]... -- SCRIPT [ARG]...
#
# Makes ROOT the root directory, binds each SOURCE of the host at TARGET, lets
# go of the host's filesystem and becomes SCRIPT. When it ends the kernel ends
# every process and every mount in here, whoever killed it.
set -eu
umask 022
root=$1 mode=$2
shift 2

mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t tmpfs -o mode=0755,nosuid,nodev,size=64m hutch-run run
mkdir run/host run/hutch
pivot_root . run/host
cd /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
hostname hutch-build

mount -t proc -o nosuid,nodev,noexec hutch-proc /proc
mount -t tmpfs -o mode=0755,nosuid,size=1m hutch-dev /dev
for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do
	numbers=${node#* }
	mknod -m 666 "/dev/${node%% *}" c "${numbers% *}" "${numbers#* }"
done
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mkdir -m 1777 /dev/shm
mount -t tmpfs -o mode=1777,nosuid,nodev hutch-tmp /tmp

while [ "$1" != -- ]; do
	if [ -d "/run/host$1" ]; then mkdir -p "$2"; else mkdir -p "${2%/*}"; [ -e "$2" ] || : >"$2"; fi
	mount --bind "/run/host$1" "$2"
	shift 2
done
shift
[ "$mode" = rw ] || mount -o remount,bind,ro /
umount -l /run/host
rmdir /run/host
exec /bin/sh -eu -c "$@"
