package gossip

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// transcript is the exchanges that reached a handler, one block an operation.
type transcript struct {
	mu  sync.Mutex
	ops map[string]string
}

// transcriber notes what passes through it.
type transcriber struct {
	*transcript
	to http.Handler
}

// variable is what differs from run to run: node ids and remaining times.
var variable = regexp.MustCompile(`\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b|(Ttl-Ms|Retry-Ms): \d+|:\d{4,}\b`)

// ServeHTTP implements http.Handler.
func (tr transcriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	rec := &recorder{ResponseRecorder: httptest.NewRecorder(), w: w}
	tr.to.ServeHTTP(rec, r)
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s\n%s%d bytes\n%s-> %d\n%s%d bytes\n", r.Method, r.URL.Path, fields(r.Header), len(body), rec.early, rec.Code, fields(rec.Header()), rec.Body.Len())
	tr.mu.Lock()
	if _, seen := tr.ops[r.URL.Path]; !seen {
		tr.ops[r.URL.Path] = variable.ReplaceAllStringFunc(text.String(), func(s string) string {
			if name, _, ok := strings.Cut(s, ": "); ok {
				return name + ": *"
			}
			return "*"
		})
	}
	tr.mu.Unlock()
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}

// recorder records a final answer and passes informational ones on at once.
type recorder struct {
	*httptest.ResponseRecorder
	w     http.ResponseWriter
	early string
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if status >= 200 {
		r.ResponseRecorder.WriteHeader(status)
		return
	}
	r.early += fmt.Sprintf("-> %d\n", status)
	r.w.WriteHeader(status)
}

// later are headers that were added since. Nodes that do not know them ignore
// them, and they are understood where they are missing.
var later = []string{hAge}

func fields(h http.Header) string {
	var lines []string
	for k, v := range h {
		if strings.HasPrefix(k, "Oauth-") && !slices.Contains(later, k) {
			lines = append(lines, k+": "+strings.Join(v, ", ")+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestTranscript_OfVersion1 holds the messages to those of the first release: a
// node of another build must go on understanding them. What changes them needs a
// version of its own, except for headers that may be missing.
func TestTranscript_OfVersion1(t *testing.T) {
	tr := &transcript{ops: make(map[string]string)}
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		order := f.ordered()
		for _, n := range order[:2] {
			n.swap(func(h http.Handler) http.Handler { return transcriber{tr, h} })
		}
		e, err := order[2].get(t.Context(), backend.Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := order[2].gossip.askWait(t.Context(), order[0].cluster.Self(), testKey, backend.Stamp{}); err != nil {
			t.Fatal(err)
		}
		if err := order[2].gossip.Revoke(t.Context(), testKey, e.ID); err != nil {
			t.Fatal(err)
		}
		if err := order[2].gossip.Confirm(t.Context(), testKey, e.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	})
	for op, got := range tr.ops {
		name := filepath.Join("testdata", "v1", strings.TrimPrefix(op, "/")+".txt")
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", op, got, want)
		}
	}
	for _, op := range []string{opLead, opPeek, opWait, opPush, opRevoke, opConfirm} {
		if tr.ops[op] == "" {
			t.Errorf("no exchange of %s", op)
		}
	}
}
