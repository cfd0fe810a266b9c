package control

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/store"
)

// show is what clients see of sb. A request id is not part of a list's items.
func (s *Server) show(sb hutch.Sandbox, requestID string) api.Sandbox {
	a := api.Sandbox{
		ID:             string(sb.ID),
		SandboxID:      string(sb.ID),
		Object:         "sandbox",
		Status:         sb.Status(),
		PublicHost:     s.cfg.Address.host(sb.ID),
		OrganizationID: int64(sb.Org),
		Region:         cmp.Or(sb.Region, s.cfg.Address.Region),
		TemplateID:     string(sb.Spec.Template),
		TemplateName:   sb.Spec.TemplateName,
		Resources: api.Resources{
			VCPU: sb.Spec.Resources.VCPU, MemoryMB: sb.Spec.Resources.MemoryMB, DiskMB: sb.Spec.Resources.DiskMB,
		},
		InternetAccess:     sb.Spec.Internet,
		LiveMode:           true,
		TimeoutSeconds:     showSeconds(sb.Timeout),
		ExpiresAt:          api.Time{Time: sb.Deadline},
		CreatedAt:          api.Time{Time: sb.Created},
		StartedAt:          api.Time{Time: sb.Started},
		EndAt:              api.Time{Time: sb.Ended},
		Metadata:           sb.Metadata,
		OnTimeout:          showOnTimeout(sb.OnTimeout),
		PreviewAccess:      previewAccess(sb.Spec.Private),
		PreviewURLTemplate: s.cfg.Address.preview(sb.ID),
		RequestID:          requestID,
	}
	if sb.Host != "" {
		host := string(sb.Host)
		a.NodeID = &host
	}
	if a.Metadata == nil {
		a.Metadata = map[string]string{}
	}
	if !sb.Alive() {
		a.Reason = string(sb.Why)
	} else if sb.Is == hutch.Failed {
		a.Fault = sb.Fault
	}
	return a
}

func showSeconds(d time.Duration) *int64 {
	if d == 0 {
		return nil
	}
	n := int64(d / time.Second)
	return &n
}

func showOnTimeout(st hutch.State) string {
	for word, s := range onTimeouts {
		if s == st {
			return word
		}
	}
	return "kill"
}

func previewAccess(private bool) string {
	if private {
		return "private"
	}
	return "public"
}

func showTiming(steps []hutch.Step, total time.Duration) api.Timing {
	t := api.Timing{TotalMS: ms(total), Steps: []api.TimingStep{}}
	for _, s := range steps {
		t.Steps = append(t.Steps, api.TimingStep{Name: s.Name, MS: ms(s.Took)})
	}
	return t
}

// ms is d in milliseconds, to a microsecond.
func ms(d time.Duration) float64 { return math.Round(float64(d)/float64(time.Microsecond)) / 1000 }

// showTemplate is what clients see of t. A request id is not part of a list's
// items.
func showTemplate(t hutch.Template, requestID string) api.Template {
	a := api.Template{
		ID:               string(t.ID),
		Object:           "template",
		Name:             t.Name,
		DisplayName:      cmp.Or(t.DisplayName, t.Name),
		Description:      t.Description,
		Category:         t.Category,
		Language:         t.Language,
		Icon:             t.Icon,
		DefaultResources: showTemplateResources(t.Default),
		MinResources:     showTemplateResources(t.Min),
		MaxResources:     showTemplateResources(t.Max),
		Features:         slices.Concat([]string{}, t.Features),
		Tags:             slices.Concat([]string{}, t.Tags),
		IsActive:         t.Status == hutch.TemplateActive,
		IsPublic:         t.Public,
		Status:           string(t.Status),
		OrganizationID:   strconv.FormatInt(int64(t.Org), 10),
		CreatedAt:        api.Time{Time: t.Created},
		UpdatedAt:        api.Time{Time: t.Updated},
		RequestID:        requestID,
	}
	if t.Status == hutch.TemplateFailed {
		a.ErrorMessage = t.Fault
	}
	if a.Features == nil {
		a.Features = []string{}
	}
	if a.Tags == nil {
		a.Tags = []string{}
	}
	return a
}

// showTemplateResources counts a begun GiB of disk as a whole one.
func showTemplateResources(r hutch.Resources) api.TemplateResources {
	return api.TemplateResources{VCPU: r.VCPU, MemoryMB: r.MemoryMB, DiskGB: (r.DiskMB + 1023) / 1024}
}

func showKey(k store.Key, now time.Time) api.Key {
	prefix := keyPrefix + k.ID
	status := "active"
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		status = "expired"
	}
	return api.Key{
		ID: k.ID, KeyID: k.ID, Name: k.Name, Prefix: prefix, Status: status, MaskedKey: prefix + ".••••••••",
		CreatedAt: api.Time{Time: k.Created}, ExpiresAt: api.Time{Time: k.Expires}, LastUsedAt: api.Time{Time: k.LastUsed},
	}
}
