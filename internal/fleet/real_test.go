package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
)

// tools returns what is installed. A machine without Orthanc runs the pure-Go
// part only; where the real thing is required (make test), its absence fails.
func tools(t *testing.T) Tools {
	t.Helper()
	tools := Find()
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

func TestOrthanc_StoresAndGivesBackEveryStudyThatWeChoose(t *testing.T) {
	tools := tools(t)
	studies, err := Studies(tools.Dicom)
	if err != nil || len(studies) < 10 || len(studies[0].Instances) < 5 {
		t.Fatalf("%d studies, %v", len(studies), err)
	}
	o, err := newFleet(t).Orthanc(t.Context(), OrthancConfig{Tools: tools, Name: "remote", Plugins: []string{tools.DicomWeb}, User: "alice", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range studies {
		for _, d := range s.Instances {
			if _, err := o.Do(t.Context(), http.MethodPost, "/instances", "application/dicom", bytes.NewReader(d.Raw)); err != nil {
				t.Errorf("store %s: %v", d.SOP, err)
			}
		}
		raw, err := o.Do(t.Context(), http.MethodGet, "/dicom-web/studies/"+s.UID, "", nil)
		if n := bytes.Count(raw, []byte("DICM")); err != nil || n != len(s.Instances) {
			t.Errorf("retrieve %s: %d of %d instances, %v", s.UID, n, len(s.Instances), err)
		}
	}
}

func TestOrthanc_DemandsItsPassword(t *testing.T) {
	tools := tools(t)
	o, err := newFleet(t).Orthanc(t.Context(), OrthancConfig{Tools: tools, Name: "remote", User: "alice", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	stranger := o.Client
	stranger.User = ""
	err = stranger.Get(t.Context(), "/system", &json.RawMessage{})
	if status, ok := errors.AsType[*StatusError](err); !ok || status.Status != http.StatusUnauthorized {
		t.Errorf("without a password: %v", err)
	}
}

func TestOrthanc_ThatEndsAtStartIsReportedWithItsLog(t *testing.T) {
	tools := tools(t)
	_, err := newFleet(t).Orthanc(t.Context(), OrthancConfig{Tools: tools, Name: "bad", Settings: map[string]any{"HttpPort": "none"}})
	if err == nil || !strings.Contains(err.Error(), "has ended") || !strings.Contains(err.Error(), "HttpPort") {
		t.Errorf("got %v", err)
	}
}

func TestRedis_Answers(t *testing.T) {
	tools := tools(t)
	r, err := newFleet(t).Redis(t.Context(), tools, "redis", "--requirepass", "pw")
	if err != nil {
		t.Fatal(err)
	}
	r.Kill()
	if err := r.ping(t.Context()); err == nil {
		t.Error("a killed redis answers")
	}
}
