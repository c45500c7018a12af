package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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

const remoteRoute = "/dicom-web/servers/" + archive

func (o *orthanc) pid() int            { return o.Pid }
func (o *orthanc) kill()               { o.Kill() }
func (o *orthanc) admin() fleet.Client { return o.Client }

func (o *orthanc) ready(ctx context.Context) error {
	var servers []string
	if err := o.Get(ctx, "/dicom-web/servers", &servers); err != nil {
		return err
	}
	if slices.Contains(servers, archive) {
		return nil
	}
	return errors.New("the plugin has not registered the server with Orthanc's DICOMweb yet")
}

// load puts the study into this Orthanc and returns Orthanc's own id of it.
func (o *orthanc) load(ctx context.Context, study fleet.Study) (string, error) {
	var id string
	for _, d := range study.Instances {
		raw, err := o.Do(ctx, http.MethodPost, "/instances", "application/dicom", bytes.NewReader(d.Raw))
		if err != nil {
			return "", err
		}
		var stored struct{ ParentStudy string }
		if err := fleet.Decode("/instances", raw, &stored); err != nil {
			return "", err
		}
		id = stored.ParentStudy
	}
	return id, nil
}

func (o *orthanc) send(ctx context.Context, study fleet.Study) error {
	id, err := o.load(ctx, study)
	if err != nil {
		return err
	}
	return o.job(ctx, remoteRoute+"/stow", []string{id})
}

// job makes a request that Orthanc carries out as a job, and waits for its end.
// Not with Synchronous: dicom-web 1.7 then looks at the job every 100 ms, takes
// one that still waits for a thread for a failure (with the error "Success"),
// and drops the connection; which happens on a busy machine.
func (o *orthanc) job(ctx context.Context, route string, resources any) error {
	var submitted struct{ ID string }
	if err := o.Post(ctx, route, map[string]any{"Resources": resources, "Synchronous": false}, &submitted); err != nil {
		return err
	}
	return fleet.Eventually(ctx, patience, func(ctx context.Context) error {
		var job struct{ State, ErrorDescription, ErrorDetails string }
		if err := o.Get(ctx, "/jobs/"+submitted.ID, &job); err != nil {
			return err
		}
		switch job.State {
		case "Success":
			return nil
		case "Failure":
			return fleet.Final(fmt.Errorf("job of %s failed: %s %s", route, job.ErrorDescription, job.ErrorDetails))
		}
		return fmt.Errorf("job of %s is in state %s", route, job.State)
	})
}

// retrieve deletes the study here first, so that what is counted came back.
func (o *orthanc) retrieve(ctx context.Context, study fleet.Study) (int, error) {
	id, err := o.load(ctx, study)
	if err != nil {
		return 0, err
	}
	if _, err := o.Do(ctx, http.MethodDelete, "/studies/"+id, "", nil); err != nil {
		return 0, err
	}
	if err := o.job(ctx, remoteRoute+"/retrieve", []any{map[string]string{"Study": study.UID}}); err != nil {
		return 0, err
	}
	var instances []struct{ ID string }
	err = o.Get(ctx, "/studies/"+id+"/instances", &instances)
	return len(instances), err
}

func (o *orthanc) query(ctx context.Context, study fleet.Study) (int, error) {
	body := map[string]any{"Uri": "/studies", "Arguments": map[string]string{"StudyInstanceUID": study.UID}}
	var found []map[string]any
	err := o.Post(ctx, remoteRoute+"/qido", body, &found)
	return len(found), err
}

// patient is a name to show, without DICOM's separators.
func patient(s fleet.Study) string { return strings.TrimSpace(strings.ReplaceAll(s.Patient, "^", " ")) }
