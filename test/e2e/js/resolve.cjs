// Preloaded (node --require) when an installation is tested under a domain:
// every name below E2E_DOMAIN resolves to loopback, as a wildcard record would
// have it. The clients themselves stay unmodified.

const dns = require('node:dns');

const domain = process.env.E2E_DOMAIN;
if (domain) {
  const lookup = dns.lookup;
  dns.lookup = function (hostname, options, callback) {
    const done = typeof options === 'function' ? options : callback;
    if (hostname !== domain && !String(hostname).endsWith(`.${domain}`)) return lookup.call(this, hostname, options, callback);
    const all = typeof options === 'object' && options !== null && options.all;
    process.nextTick(() => (all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)));
  };
}
