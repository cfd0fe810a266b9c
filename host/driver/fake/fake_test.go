package fake_test

import (
	"testing"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/driver/drivertest"
	"github.com/hutch-sh/hutch/host/driver/fake"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Subject {
		d := new(fake.Driver)
		return drivertest.Subject{
			Driver: d,
			Bundle: func(_ *testing.T, id hutch.SandboxID) driver.Bundle { return driver.Bundle{ID: id} },
			Left: func(_ *testing.T, id hutch.SandboxID) []string {
				if d.Cell(id) != nil {
					return []string{"cell"}
				}
				return nil
			},
			End:    func(_ *testing.T, id hutch.SandboxID) { d.Cell(id).Die(driver.Exit{}) },
			Reopen: func(*testing.T) driver.Driver { return d },
		}
	})
}
