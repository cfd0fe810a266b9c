package control

import (
	"strconv"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// me describes the caller. There are no users yet: it is a key, and it may do
// everything in its organization.
func (s *Server) me(c *call) (reply, error) {
	return ok(api.Me{
		UserID: c.key.ID, KeyID: c.key.ID, FirstName: c.key.Name, OrganizationID: int64(c.org()), Role: "owner", RequestID: c.id,
	})
}

// organization describes who owns what the caller sees. There are no plans and
// no billing here.
func (s *Server) organization(c *call) (reply, error) {
	name := organizationName(c.org())
	return ok(api.Organization{ID: int64(c.org()), Name: name, Slug: name, PlanID: "self-hosted", RequestID: c.id})
}

// organizationName names an organization; only the first has a name yet.
func organizationName(org hutch.OrgID) string {
	if org == hutch.DefaultOrg {
		return "default"
	}
	return "organization-" + strconv.FormatInt(int64(org), 10)
}
