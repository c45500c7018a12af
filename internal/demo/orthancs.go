package demo

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// orthancs is the cast of real Orthancs, each with the DICOMweb plugin and ours.
type orthancs struct {
	fleet  *fleet.Fleet
	tools  fleet.Tools
	plugin string
	chosen []fleet.Study
}

func newOrthancs(f *fleet.Fleet, tools fleet.Tools, plugin string) (*orthancs, error) {
	all, err := fleet.Studies(tools.Dicom)
	if err != nil {
		return nil, err
	}
	c := &orthancs{fleet: f, tools: tools, plugin: plugin}
	for _, s := range all {
		if n := len(s.Instances); n >= 2 && n <= 20 { // studies to look at, not to wait for
			c.chosen = append(c.chosen, s)
		}
	}
	if len(c.chosen) < len(c.names()) {
		return nil, fmt.Errorf("only %d suitable studies in %s", len(c.chosen), tools.Dicom)
	}
	return c, nil
}

func (c *orthancs) noun() string { return "Orthanc" }
func (c *orthancs) names() []string {
	return []string{"orthanc-a", "orthanc-b", "orthanc-c", "orthanc-d"}
}
func (c *orthancs) studies() []fleet.Study { return c.chosen }

// remote is a further Orthanc, with a password that only the gate knows.
func (c *orthancs) remote(ctx context.Context) (idptest.GateConfig, error) {
	user, password := "gate", newPassword()
	o, err := c.fleet.Orthanc(ctx, fleet.OrthancConfig{
		Tools: c.tools, Name: "remote", Plugins: []string{c.tools.DicomWeb}, User: user, Password: password,
	})
	if err != nil {
		return idptest.GateConfig{}, err
	}
	base, err := url.Parse(o.Base)
	if err != nil {
		return idptest.GateConfig{}, fmt.Errorf("address of the remote: %w", err)
	}
	base.User = url.UserPassword(user, password)
	return idptest.GateConfig{Upstream: base}, nil
}

func (c *orthancs) start(ctx context.Context, name string, section map[string]any) (instance, error) {
	o, err := c.fleet.Orthanc(ctx, fleet.OrthancConfig{
		Tools:   c.tools,
		Name:    name,
		Plugins: []string{c.tools.DicomWeb, c.plugin},
		Settings: map[string]any{"DicomWeb": map[string]any{
			"Enable": true,
			"Root":   "/dicom-web/",
			"OAuth":  section,
		}},
	})
	if err != nil {
		return nil, err
	}
	return &orthanc{o}, nil
}

// orthanc is one Orthanc, used through its own DICOMweb routes only.
type orthanc struct{ *fleet.Orthanc }

func (o *orthanc) pid() int            { return o.Pid }
func (o *orthanc) kill()               { o.Kill() }
func (o *orthanc) admin() fleet.Client { return o.Client }

func (o *orthanc) ready(ctx context.Context) error { return o.Knows(ctx, archive) }

func (o *orthanc) send(ctx context.Context, study fleet.Study) error {
	return o.Stow(ctx, archive, study)
}

func (o *orthanc) retrieve(ctx context.Context, study fleet.Study) (int, error) {
	return o.Retrieve(ctx, archive, study)
}

func (o *orthanc) query(ctx context.Context, study fleet.Study) (int, error) {
	return o.Query(ctx, archive, study)
}

// patient is a name to show, without DICOM's separators.
func patient(s fleet.Study) string { return strings.TrimSpace(strings.ReplaceAll(s.Patient, "^", " ")) }
