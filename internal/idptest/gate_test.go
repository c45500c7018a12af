package idptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func instance(n int) Instance {
	d := Instance{
		Class: "1.2.840.10008.5.1.4.1.1.7", SOP: fmt.Sprintf("1.2.3.4.%d", n),
		StudyDate: "20240102", Modality: "OT", PatientName: "Doe^Jane", PatientID: "P1",
		Study: "1.2.3", Series: "1.2.3.4",
	}
	d.Raw = d.Encode(1024)
	return d
}

// stow sends instances and returns the status.
func stow(ctx context.Context, rt http.RoundTripper, base, token string, instances ...Instance) (int, error) {
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	for _, d := range instances {
		part, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
		if err != nil {
			return 0, err
		}
		_, _ = part.Write(d.Raw)
	}
	_ = m.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/studies", &body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+m.Boundary())
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Body.Close()
}

func TestGate_LetsOnlyLiveTokensThrough(t *testing.T) {
	i := newIdP()
	i.Script(Answer{}, Answer{Lifetime: time.Nanosecond}, Answer{})
	live, expired, revoked := mustAsk(t, i).token(), mustAsk(t, i).token(), mustAsk(t, i).token()
	i.Revoke(revoked)
	target := NewTarget(TargetConfig{})
	g := NewGate(GateConfig{State: i.State, Handler: target})
	for token, want := range map[string]int{live: 200, expired: 401, revoked: 401, "foreign": 401, "": 401} {
		if got, err := stow(t.Context(), InMemory(g), "http://gate", token, instance(1)); got != want || err != nil {
			t.Errorf("token %q: got %d %v, want %d", token, got, err, want)
		}
	}
	want := GateCounts{Accepted: 1, Missing: 1, Unknown: 1, Expired: 1, Revoked: 1, Tokens: 1}
	if got := g.Counts(); got != want || got.Refused() != 4 {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	if got := target.Counts().Stored; got != 1 {
		t.Errorf("%d instances reached the target", got)
	}
}

func TestGate_FollowsItsScript(t *testing.T) {
	i := newIdP()
	token := mustAsk(t, i).token()
	for name, c := range map[string]struct {
		script GateScript
		want   []int
	}{
		"refuses the next two": {GateScript{RefuseNext: 2}, []int{401, 401, 200}},
		"refuses a path":       {GateScript{RefusePath: "/stud"}, []int{401, 401, 401}},
		"refuses another path": {GateScript{RefusePath: "/series"}, []int{200, 200, 200}},
		"forbids":              {GateScript{Forbid: true}, []int{403, 403, 403}},
		"refuses after a read": {GateScript{RefuseNext: 1, Drain: true}, []int{401, 200, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGate(GateConfig{State: i.State, Handler: NewTarget(TargetConfig{})})
			g.Script(c.script)
			for n, want := range c.want {
				if got, err := stow(t.Context(), InMemory(g), "http://gate", token, instance(n)); got != want || err != nil {
					t.Fatalf("request %d: got %d %v, want %d", n, got, err, want)
				}
			}
		})
	}
}

// countedBody is a body of size bytes that counts what is read from it; the
// transport may read on while the answer is looked at.
type countedBody struct {
	size int64
	read atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n := min(int64(len(p)), b.size-b.read.Load())
	if n == 0 {
		return 0, io.EOF
	}
	b.read.Add(n)
	return int(n), nil
}

func TestGate_RefusesBeforeOrAfterTheBody(t *testing.T) {
	const size = 16 << 20
	for name, c := range map[string]struct {
		drain bool
		want  func(read int64) bool
	}{
		"early":   {false, func(read int64) bool { return read < size }},
		"drained": {true, func(read int64) bool { return read == size }},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGate(GateConfig{State: newIdP().State, Handler: http.NotFoundHandler()})
			g.Script(GateScript{Drain: c.drain})
			s := listen(t, g, ServerOptions{})
			body := &countedBody{size: size}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/studies", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized || !c.want(body.read.Load()) {
				t.Fatalf("status %d after %d bytes", resp.StatusCode, body.read.Load())
			}
		})
	}
}

func TestGate_HandsOnWhatWasAskedButNotTheToken(t *testing.T) {
	var got *http.Request
	behind := listen(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Clone(context.Background()) }), ServerOptions{})
	u, err := url.Parse(behind.URL + "/dicom-web")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("alice", "pw")
	i := newIdP()
	g := NewGate(GateConfig{State: i.State, Upstream: u})
	t.Cleanup(g.Close)
	front := listen(t, g, ServerOptions{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+"/studies?a=1;b=%zz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+mustAsk(t, i).token())
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	user, pass, _ := got.BasicAuth()
	if got.URL.Path != "/dicom-web/studies" || got.URL.RawQuery != "a=1;b=%zz" || user != "alice" || pass != "pw" {
		t.Fatalf("behind the gate: %s?%s as %q", got.URL.Path, got.URL.RawQuery, user)
	}
}

func TestTarget_StoresFindsAndGivesBack(t *testing.T) {
	target := NewTarget(TargetConfig{})
	rt := InMemory(target)
	if status, err := stow(t.Context(), rt, "http://t", "", instance(1), instance(2), instance(1)); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	for path, want := range map[string]int{
		"/studies": 1, "/studies?PatientID=P1": 1, "/studies?PatientID=other": 0, "/studies?00100010=Doe^Jane": 1,
		"/studies/1.2.3/series": 1, "/studies/1.2.3/instances": 2, "/instances": 2, "/studies/9/instances": 0,
	} {
		_, _, body := fetch(t, rt, path)
		var found []attributes
		if err := json.Unmarshal(body, &found); err != nil || len(found) != want {
			t.Errorf("%s: %d found, want %d (%v)", path, len(found), want, err)
		}
	}
	for path, want := range map[string]int{"/studies/1.2.3": 2, "/studies/1.2.3/series/1.2.3.4": 2, "/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.2": 1} {
		_, contentType, body := fetch(t, rt, path)
		if n := countParts(t, contentType, body); n != want {
			t.Errorf("%s: %d parts, want %d", path, n, want)
		}
	}
	if status, _, _ := fetch(t, rt, "/studies/9"); status != http.StatusNotFound {
		t.Errorf("unknown study: %d", status)
	}
}

func fetch(t *testing.T, rt http.RoundTripper, path string) (status int, contentType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://t/base"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body
}

// countParts checks that every part of an answer is a whole instance.
func countParts(t *testing.T, contentType string, body []byte) (n int) {
	t.Helper()
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for ; ; n++ {
		part, err := parts.NextPart()
		if err != nil {
			return n
		}
		raw, _ := io.ReadAll(part)
		if _, err := ParseInstance(raw); err != nil || len(raw) != len(instance(1).Raw) {
			t.Errorf("part of %d bytes: %v", len(raw), err)
		}
	}
}

func TestTarget_IsBounded(t *testing.T) {
	size := int64(len(instance(1).Raw))
	target := NewTarget(TargetConfig{MaxBytes: 2*size + 10})
	if status, err := stow(t.Context(), InMemory(target), "http://t", "", instance(1), instance(2), instance(3)); status != http.StatusAccepted || err != nil {
		t.Fatal(status, err)
	}
	if c := target.Counts(); c.Stored != 2 || c.Failed != 1 || c.Bytes != 3*size {
		t.Fatalf("counts %+v", c)
	}
	if status, err := stow(t.Context(), InMemory(target), "http://t", "", instance(4)); status != http.StatusConflict || err != nil {
		t.Fatal(status, err)
	}
}

func TestTarget_DiscardTakesStudiesOfAnySize(t *testing.T) {
	d := instance(1)
	d.Raw = d.Encode(1 << 20)
	target := NewTarget(TargetConfig{Discard: true, MaxBytes: 1})
	if status, err := stow(t.Context(), InMemory(target), "http://t", "", d); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	if c := target.Counts(); c.Stored != 1 || c.Bytes != int64(len(d.Raw)) || len(target.instances) != 0 {
		t.Fatalf("counts %+v, kept %d", c, len(target.instances))
	}
}

func TestTarget_RefusesARequestThatBreaksOff(t *testing.T) {
	body := "--b\r\nContent-Type: application/dicom\r\n\r\n" + string(instance(1).Raw) + "\r\n--b\r\nContent-Ty"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://t/studies", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "multipart/related; boundary=b")
	resp, err := InMemory(NewTarget(TargetConfig{})).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("status %d", resp.StatusCode)
	}
}

func TestTarget_RefusesWhatIsNoInstance(t *testing.T) {
	junk := Instance{Raw: []byte(strings.Repeat("x", 500))}
	if status, err := stow(t.Context(), InMemory(NewTarget(TargetConfig{})), "http://t", "", junk); status != http.StatusConflict || err != nil {
		t.Fatal(status, err)
	}
}

func FuzzParseInstance(f *testing.F) {
	whole := instance(1).Raw
	f.Add(whole)
	f.Add(whole[:200])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := ParseInstance(raw); err == nil && (d.Study == "" || d.SOP == "") {
			t.Fatal("accepted without its UIDs")
		}
	})
}
