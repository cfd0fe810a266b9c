package network

import (
	"os"
	"path/filepath"
	"strings"
)

// sysctlPath is for settings of one interface ("all" and "default" included).
// An interface name cannot hold a slash, so it stays one path element.
func sysctlPath(family, iface, name string) string {
	return filepath.Join("/proc/sys/net", family, "conf", iface, name)
}

// writeSysctl sets a setting in the namespace of the calling thread.
func writeSysctl(family, iface, name, value string) error {
	f, err := os.OpenFile(sysctlPath(family, iface, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(value); err != nil {
		f.Close() // the write's error says more
		return err
	}
	return f.Close()
}

func readSysctl(family, iface, name string) (string, error) {
	b, err := os.ReadFile(sysctlPath(family, iface, name))
	return strings.TrimSpace(string(b)), err
}
