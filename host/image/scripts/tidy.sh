# Runs inside a Debian after packages were added: takes away what only the
# building needed, and what would differ from one build to the next.
rm -f /etc/apt/apt.conf.d/zz-hutch-build
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log /var/log/alternatives.log
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/lintian/* /usr/share/bug/* /root/.cache /root/.wget-hsts
find /usr/share/locale -mindepth 1 -maxdepth 1 ! -name locale.alias -exec rm -rf {} +
find /usr/share/doc -depth -type f ! -name copyright -delete
find /usr/share/doc -depth -type l -delete
find /usr/share/doc -depth -mindepth 1 -type d -empty -delete
: >/etc/machine-id
