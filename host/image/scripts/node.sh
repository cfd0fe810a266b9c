# Runs inside the Debian of python.sh with Node at /usr/local: does it work?
export HOME=/tmp
node -e 'if (!process.release.lts) throw new Error("not a long-term release")'
npm --version
npx --version
