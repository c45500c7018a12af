package demo

import (
	"context"
	"fmt"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
	"orthanc-oauth/internal/proxy"
)

// sidecars is the cast of machines without Orthanc: the standalone binary as
// real processes, and a small DICOMweb-shaped server as the remote.
type sidecars struct {
	fleet  *fleet.Fleet
	binary string
	target *idptest.Target
	made   []fleet.Study

	// One user for all nodes: a password hash takes its time by design.
	user, password, users string
}

func newSidecars(f *fleet.Fleet, binary string) *sidecars {
	c := &sidecars{fleet: f, binary: binary, target: idptest.NewTarget(idptest.TargetConfig{})}
	for n := range c.names() {
		c.made = append(c.made, makeStudy(n+1, 3+n))
	}
	return c
}

// makeStudy makes up a study of secondary captures.
func makeStudy(number, instances int) fleet.Study {
	const root = "1.2.826.0.1.3680043.10.1337" // of UIDs that mean nothing elsewhere
	s := fleet.Study{UID: fmt.Sprintf("%s.%d", root, number), Patient: fmt.Sprintf("Demo^Patient %d", number), Modality: "OT"}
	for n := range instances {
		d := idptest.Instance{
			Class:       "1.2.840.10008.5.1.4.1.1.7", // Secondary Capture Image Storage
			SOP:         fmt.Sprintf("%s.1.%d", s.UID, n+1),
			Series:      s.UID + ".1",
			Study:       s.UID,
			StudyDate:   "20240229",
			Modality:    s.Modality,
			PatientName: s.Patient,
			PatientID:   fmt.Sprintf("DEMO-%d", number),
		}
		d.Raw = d.Encode(512)
		s.Instances = append(s.Instances, d)
	}
	return s
}

func (c *sidecars) noun() string           { return "sidecar" }
func (c *sidecars) names() []string        { return []string{"node-a", "node-b", "node-c", "node-d"} }
func (c *sidecars) studies() []fleet.Study { return c.made }

func (c *sidecars) remote(context.Context) (idptest.GateConfig, error) {
	c.user, c.password = "modality", newPassword()
	hash, err := proxy.HashPassword(c.password)
	if err != nil {
		return idptest.GateConfig{}, err
	}
	c.users = c.user + ":" + hash + "\n"
	return idptest.GateConfig{Handler: c.target}, nil
}

func (c *sidecars) start(ctx context.Context, name string, section map[string]any) (instance, error) {
	s, err := c.fleet.Sidecar(ctx, fleet.SidecarConfig{
		Binary: c.binary, Name: name, Section: section,
		Users: c.users, User: c.user, Password: c.password, Token: newSecret(),
	})
	if err != nil {
		return nil, err
	}
	return &sidecar{s}, nil
}

// sidecar is one node, used through its data path.
type sidecar struct{ *fleet.Sidecar }

func (s *sidecar) pid() int                    { return s.Pid }
func (s *sidecar) kill()                       { s.Kill() }
func (s *sidecar) admin() fleet.Client         { return s.Client }
func (s *sidecar) ready(context.Context) error { return nil } // it was live when it was returned

func (s *sidecar) send(ctx context.Context, study fleet.Study) error {
	return s.Stow(ctx, archive, study)
}

func (s *sidecar) retrieve(ctx context.Context, study fleet.Study) (int, error) {
	return s.Retrieve(ctx, archive, study)
}

func (s *sidecar) query(ctx context.Context, study fleet.Study) (int, error) {
	return s.Query(ctx, archive, study)
}
