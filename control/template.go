package control

import (
	"github.com/hutch-sh/hutch/api"
)

// listTemplates returns every template the caller may use: there are no pages,
// because no client asks for them.
func (s *Server) listTemplates(c *call) (reply, error) {
	category, language, err := decodeTemplates(c.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	ts, err := s.db.Templates(c.Context(), c.org(), category, language)
	if err != nil {
		return reply{}, err
	}
	l := api.TemplateList{Object: "list", Data: []api.Template{}, URL: "/v1/templates", RequestID: c.id}
	for _, t := range ts {
		l.Data = append(l.Data, showTemplate(t, ""))
	}
	return ok(l)
}

func (s *Server) template(c *call) (reply, error) {
	name, err := templateName(c)
	if err != nil {
		return reply{}, err
	}
	t, err := s.db.Template(c.Context(), c.org(), name)
	if err != nil {
		return reply{}, templateError(err, name)
	}
	return ok(showTemplate(t, c.id))
}

func (s *Server) deleteTemplate(c *call) (reply, error) {
	name, err := templateName(c)
	if err != nil {
		return reply{}, err
	}
	if err := s.db.DeleteTemplate(c.Context(), c.org(), name); err != nil {
		return reply{}, templateError(err, name)
	}
	return ok(api.DeletedTemplate{ID: name, Object: "template", Deleted: true, RequestID: c.id})
}

// templateName returns the name or id in the path. What can be neither is not
// found.
func templateName(c *call) (string, error) {
	name := c.PathValue("template")
	if len(name) > maxTemplateLen || !printable(name) {
		return "", notFound("Template not found", nil)
	}
	return name, nil
}
