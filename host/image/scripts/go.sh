# Runs inside the Debian of python.sh with Go at /usr/local/go, read-only but
# for that and /root. Compiles the packages most programs start from, so that
# the first build in a sandbox does not.
export HOME=/root PATH=/usr/local/go/bin:$PATH GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-mod=mod
mkdir /tmp/warm
cd /tmp/warm
go mod init warm >/dev/null 2>&1
{
	echo 'package main'
	echo 'import ('
	for p in "$@"; do echo "_ \"$p\""; done
	echo ')'
	echo 'func main() {}'
} >main.go
go build -o /dev/null .
go vet .
go version
