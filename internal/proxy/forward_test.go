package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestForward_SendsTokenToTheServersBase(t *testing.T) {
	var got *http.Request
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		got = req.Clone(context.Background())
		w.Header().Set("Content-Type", "application/dicom+json")
		io.WriteString(w, "[]")
	})
	req := r.request(http.MethodGet, "/pacs/studies%2Fx/1.2;v=1?PatientName=%zz&a;b=%2e%2e&c=+&&", nil)
	for k, v := range map[string]string{
		"X-Forwarded-For": "10.1.1.1", "X-Forwarded-Host": "evil", "Forwarded": "for=1", "Accept": "application/dicom+json",
		"Proxy-Authorization": "Basic x", "Expect": "100-continue", "Connection": "Upgrade", "Upgrade": "websocket",
	} {
		req.Header.Set(k, v)
	}
	resp, body := r.do(req)
	want(t, "status", resp.StatusCode, 200)
	want(t, "body", body, "[]")
	want(t, "request line", got.RequestURI, "/dicom-web/studies%2Fx/1.2;v=1?PatientName=%zz&a;b=%2e%2e&c=+&&")
	want(t, "host", got.Host, strings.TrimPrefix(r.remote.URL, "http://"))
	want(t, "authorization", strings.Join(got.Header.Values("Authorization"), "|"), "Bearer token-1")
	want(t, "accept", got.Header.Get("Accept"), "application/dicom+json")
	for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Accept-Encoding", "Proxy-Authorization", "Expect", "Upgrade", "Via"} {
		if v, ok := got.Header[h]; ok {
			t.Errorf("%s reached the remote: %q", h, v)
		}
	}
	r.counts(1, "transfers_total", "pacs", "ok")
	r.counts(1, "http_requests_total", "GET", "dicomweb", "200")
}

func TestForward_StreamsBodiesBothWays(t *testing.T) {
	r := newRig(t, size)
	const n = 5 << 20
	body := newPattern(n)
	resp, got := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(body)))
	want(t, "status", resp.StatusCode, 200)
	want(t, "size and sum", got, fmt.Sprintf("%d %x", n, body.sum.Sum32()))

	r = newRig(t, func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, newPattern(n)) })
	resp, got = r.get("/pacs/studies/1")
	sum := newChecksum()
	io.WriteString(sum, got)
	want(t, "status", resp.StatusCode, 200)
	want(t, "sum", sum.Sum32(), body.sum.Sum32())
}

func TestForward_RefusesDotSegmentsBeforeAnythingIsSent(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("the remote was asked") })
	for _, path := range []string{"/pacs/../admin", "/pacs/%2e%2e/admin", "/pacs/a/..%5c..%5cadmin", "/pacs/%252e%252e/x"} {
		resp, body := r.get(path)
		want(t, path, resp.StatusCode, http.StatusBadRequest)
		want(t, "code", failureIn(t, body).ErrorCode, "CFG-002")
	}
}

func TestForward_RefusesTraceAndUnknownServers(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("the remote was asked") })
	resp, _ := r.do(r.request(http.MethodTrace, "/pacs/studies", nil))
	want(t, "TRACE", resp.StatusCode, http.StatusMethodNotAllowed)
	resp, _ = r.get("/other/studies")
	want(t, "unknown", resp.StatusCode, http.StatusNotFound)
}

func TestAuthorize_ForeignAuthorizationIsExplained(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("the remote was asked") })
	for name, set := range map[string]func(*http.Request){
		"bearer":         func(q *http.Request) { q.Header.Set("Authorization", "Bearer abc") },
		"wrong password": func(q *http.Request) { q.SetBasicAuth(testUser, "x") },
		"wrong user":     func(q *http.Request) { q.SetBasicAuth("x", testPassword) },
		"two":            func(q *http.Request) { q.Header.Add("Authorization", "Bearer abc") },
	} {
		req := r.request(http.MethodGet, "/pacs/studies", nil)
		set(req)
		resp, body := r.do(req)
		want(t, name, resp.StatusCode, http.StatusForbidden)
		if f := failureIn(t, body); !strings.Contains(strings.Join(f.Troubleshooting, " "), "HttpHeaders.Authorization") {
			t.Errorf("%s: no word about HttpHeaders.Authorization: %s", name, body)
		}
	}
	req := r.request(http.MethodGet, "/pacs/studies", nil)
	req.Header.Del("Authorization")
	resp, _ := r.do(req)
	want(t, "none", resp.StatusCode, http.StatusForbidden)
	want(t, "challenge", resp.Header.Get("WWW-Authenticate"), "")
}

func TestAuthorize_SidecarChallengesOnlyWhereNothingWasGiven(t *testing.T) {
	r := newRig(t, status(200), func(c *Config, _ *TransportConfig) { c.Realm = "orthanc-oauth" })
	req := r.request(http.MethodGet, "/pacs/studies", nil)
	req.Header.Del("Authorization")
	resp, _ := r.do(req)
	want(t, "status", resp.StatusCode, http.StatusUnauthorized)
	want(t, "challenge", resp.Header.Get("WWW-Authenticate"), `Basic realm="orthanc-oauth", charset="UTF-8"`)
	req.SetBasicAuth(testUser, "wrong")
	resp, _ = r.do(req)
	want(t, "wrong", resp.StatusCode, http.StatusForbidden)
}

func TestForward_ClientGoneCancelsTheRemote(t *testing.T) {
	gone, arrived := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		close(arrived)
		<-req.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := r.front.Client().Do(r.request(http.MethodGet, "/pacs/studies", nil).WithContext(ctx))
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-gone
	r.counts(1, "transfers_total", "pacs", "client_gone")
}

func TestClose_CancelsWhatHangsAndRefusesWhatFollows(t *testing.T) {
	arrived := make(chan struct{})
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		close(arrived)
		<-req.Context().Done()
	})
	got := make(chan int, 1)
	go func() {
		resp, err := r.front.Client().Do(r.request(http.MethodGet, "/pacs/studies", nil))
		if err != nil {
			got <- 0
			return
		}
		resp.Body.Close()
		got <- resp.StatusCode
	}()
	<-arrived
	start := time.Now()
	must(t, r.proxy.Close(t.Context()))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Close took %v", took)
	}
	want(t, "hanging", <-got, http.StatusServiceUnavailable)
	resp, _ := r.get("/pacs/studies")
	want(t, "later", resp.StatusCode, http.StatusServiceUnavailable)
	must(t, r.proxy.Close(t.Context())) // idempotent
}

func TestForward_BrokenAnswerIsNotTakenForAWholeOne(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 100_000)) // beyond net/http's buffers
		panic(http.ErrAbortHandler)
	})
	resp, err := r.front.Client().Do(r.request(http.MethodGet, "/pacs/studies/1", nil))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Fatal("the broken answer arrived as if it were whole")
	}
	r.counts(1, "transfers_total", "pacs", "aborted")
}

type panicSource struct{ *fakeSource }

func (panicSource) Use(context.Context) (Token, error) { panic("planted") }

func TestForward_PanicBecomesAnError(t *testing.T) {
	r := newRig(t, status(200))
	old := (*r.proxy.upstreams.Load())["pacs"]
	must(t, r.proxy.SetUpstreams([]Upstream{{Name: "pacs", URL: old.URL, Source: panicSource{}, Transport: old.Transport}}))
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusInternalServerError)
	want(t, "code", failureIn(t, body).ErrorCode, "INT-001")
	if strings.Contains(body, "planted") || !strings.Contains(r.log.String(), "planted") {
		t.Error("the panic belongs in the log, not in the answer")
	}
}

func TestSetUpstreams_RefusesUnusableOnes(t *testing.T) {
	r := newRig(t, status(200))
	good := (*r.proxy.upstreams.Load())["pacs"].Upstream
	for name, change := range map[string]func(u *Upstream){
		"name":      func(u *Upstream) { u.Name = "" },
		"no url":    func(u *Upstream) { u.URL = nil },
		"scheme":    func(u *Upstream) { c := *u.URL; c.Scheme = "ftp"; u.URL = &c },
		"query":     func(u *Upstream) { c := *u.URL; c.RawQuery = "a=b"; u.URL = &c },
		"source":    func(u *Upstream) { u.Source = nil },
		"transport": func(u *Upstream) { u.Transport = nil },
	} {
		bad := good
		change(&bad)
		if r.proxy.SetUpstreams([]Upstream{bad}) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if r.proxy.SetUpstreams([]Upstream{good, good}) == nil {
		t.Error("two servers of one name: accepted")
	}
	resp, _ := r.get("/pacs/studies")
	want(t, "still there", resp.StatusCode, 200)
	if _, err := New(Config{}); err == nil {
		t.Error("a proxy that lends tokens to everybody was made")
	}
}
