package demo

import (
	"os"
	"strings"
	"testing"

	"orthanc-oauth/internal/fleet"
)

// installed returns the tools of the real cast. A machine without Orthanc runs
// the pure-Go part only; where the real thing is required (make test), its
// absence fails.
func installed(t *testing.T) fleet.Tools {
	t.Helper()
	tools := fleet.Find()
	missing := tools.Missing(true)
	if len(missing) == 0 {
		return tools
	}
	if os.Getenv("ORTHANC_OAUTH_REQUIRE_REAL") != "" {
		t.Fatalf("packages missing: %v", missing)
	}
	t.Skipf("packages missing: %v", missing)
	return tools
}

// TestOrthanc_SendsFindsAndGetsBack is about what the cast asks of Orthanc, so
// the remote is registered by hand and no plugin of ours takes part.
func TestOrthanc_SendsFindsAndGetsBack(t *testing.T) {
	tools := installed(t)
	f, err := fleet.New(t.Context(), fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	c, err := newOrthancs(f, tools, "")
	if err != nil {
		t.Fatal(err)
	}
	gate, err := c.remote(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := gate.Upstream.User.Password()
	server := []string{"http://" + gate.Upstream.Host + "/dicom-web/", gate.Upstream.User.Username(), password}
	node, err := f.Orthanc(t.Context(), fleet.OrthancConfig{
		Tools: tools, Name: "node", Plugins: []string{tools.DicomWeb},
		Settings: map[string]any{"DicomWeb": map[string]any{"Enable": true, "Root": "/dicom-web/", "Servers": map[string]any{archive: server}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o, study := &orthanc{node}, c.studies()[0]
	if err := o.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := o.query(t.Context(), study); n != 0 || err != nil {
		t.Fatalf("found before it was sent: %d, %v", n, err)
	}
	if err := o.send(t.Context(), study); err != nil {
		t.Fatal(err)
	}
	if n, err := o.query(t.Context(), study); n != 1 || err != nil {
		t.Errorf("found %d, %v", n, err)
	}
	if n, err := o.retrieve(t.Context(), study); n != len(study.Instances) || err != nil {
		t.Errorf("got %d of %d instances back, %v", n, len(study.Instances), err)
	}
	if err := o.send(t.Context(), c.studies()[1]); err != nil {
		t.Error(err)
	}
	if strings.Contains(node.Log(1<<20), password) {
		t.Error("the password is in the log")
	}
}
