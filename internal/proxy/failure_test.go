package proxy

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTokenErrors_MapToTheirStatus(t *testing.T) {
	for code, status := range map[string]int{
		"NET-001": 504, "NET-002": 502, "NET-003": 502, "AUTH-001": 502, "AUTH-002": 502, "AUTH-003": 503,
		"TOK-001": 502, "TOK-005": 502, "INT-001": 500, "CFG-001": 500, "": 502, "XYZ-999": 502,
	} {
		r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("the remote was asked") })
		r.source.useErr = fmt.Errorf("fill: %w", &Failure{Code: code, RetryAfter: 1500 * time.Millisecond, Err: errors.New("cause")})
		resp, body := r.get("/pacs/studies")
		want(t, code, resp.StatusCode, status)
		want(t, "Retry-After", resp.Header.Get("Retry-After"), "2")
		r.counts(1, "transfers_total", "pacs", "no_token")
		if f := failureIn(t, body); f.ErrorCode != code || f.Details["cause"] != "cause" {
			t.Errorf("%s: %s", code, body)
		}
	}
}

func TestTokenErrors_OfAnUnknownKindAreTOK001(t *testing.T) {
	r := newRig(t, status(200))
	r.source.useErr = errors.New("odd")
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 502)
	want(t, "code", failureIn(t, body).ErrorCode, "TOK-001")
}

func TestTokenErrors_AfterARefusalTheCauseIsTold(t *testing.T) {
	r := newRig(t, status(401))
	r.source.refuseErr = &Failure{Code: "AUTH-003", RetryAfter: time.Minute}
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 503)
	want(t, "Retry-After", resp.Header.Get("Retry-After"), "60")
	want(t, "code", failureIn(t, body).ErrorCode, "AUTH-003")
	r.counts(1, "remote_responses_total", "pacs", "401")
}

func TestRemote_407NeverPasses(t *testing.T) {
	r := newRig(t, status(http.StatusProxyAuthRequired))
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	want[any](t, "true status", failureIn(t, body).Details["remote_status"], 407.0)
}

func TestRemote_OtherErrorsPassUnchanged(t *testing.T) {
	for _, code := range []int{400, 404, 409, 429, 500, 503} {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "the remote's own words", code)
		})
		resp, body := r.get("/pacs/studies")
		want(t, "status", resp.StatusCode, code)
		want(t, "body", body, "the remote's own words\n")
		want(t, "Retry-After", resp.Header.Get("Retry-After"), "7")
		r.counts(1, "transfers_total", "pacs", "remote_error")
	}
}

func TestRemote_ThatIsNotThereIsNET002(t *testing.T) {
	r := newRig(t, status(200))
	r.remote.Close()
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	want(t, "code", failureIn(t, body).ErrorCode, "NET-002")
	r.counts(1, "transfers_total", "pacs", "unreachable")
}

func TestRemote_SilentAfterTheRequestIsNET001(t *testing.T) {
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	}, func(_ *Config, tc *TransportConfig) { tc.HeaderTimeout = 50 * time.Millisecond })
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		resp, body := r.do(r.request(method, "/pacs/studies", strings.NewReader("x")))
		want(t, method, resp.StatusCode, http.StatusGatewayTimeout)
		want(t, "code", failureIn(t, body).ErrorCode, "NET-001")
	}
}

func TestIdle_UploadTheRemoteStopsReadingIsNET001(t *testing.T) {
	deaf := func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Minute) } // of the bubble's time
	inBubble(t, deaf, time.Minute, func(t *testing.T, r *rig) {
		resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(64<<20))))
		want(t, "status", resp.StatusCode, http.StatusGatewayTimeout)
		want(t, "code", failureIn(t, body).ErrorCode, "NET-001")
		r.counts(1, "transfers_total", "pacs", "timeout")
	})
}

func TestIdle_AnswerThatStandsStillIsCutOff(t *testing.T) {
	begins := func(w http.ResponseWriter, req *http.Request) {
		w.Write([]byte("begin"))
		http.NewResponseController(w).Flush()
		<-req.Context().Done()
	}
	inBubble(t, begins, time.Minute, func(t *testing.T, r *rig) {
		resp, err := r.front.Client().Do(r.request(http.MethodGet, "/pacs/studies/1", nil))
		must(t, err)
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the answer arrived as if it were whole")
		}
	})
}

func TestIdle_ThinkingRemoteIsNotIdle(t *testing.T) {
	thinks := func(w http.ResponseWriter, req *http.Request) {
		n, _ := io.Copy(io.Discard, req.Body)
		time.Sleep(3 * time.Minute)
		fmt.Fprint(w, n)
	}
	inBubble(t, thinks, time.Minute, func(t *testing.T, r *rig) {
		resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(1<<20))))
		want(t, "status", resp.StatusCode, 200)
		want(t, "body", body, fmt.Sprint(1<<20))
	})
}

func TestUpload_ThatBreaksOffIsTheCallersFault(t *testing.T) {
	r := newRig(t, size)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.front.URL, "http://"))
	must(t, err)
	defer conn.Close()
	req := r.request(http.MethodPost, "/pacs/studies", nil)
	fmt.Fprintf(conn, "POST /pacs/studies HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n", req.Header.Get("Authorization"))
	answer := make([]byte, 32)
	_, err = io.ReadFull(conn, answer)
	must(t, err)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
		t.Errorf("got %q, want 400", answer)
	}
	if revoked, _ := r.source.seen(); revoked != 0 {
		t.Error("a token was revoked for a broken upload")
	}
}

// net/http would not write an answer while the caller's next bytes are awaited.
func TestUpload_StalledCallerGetsAnEarlyAnswerAndHoldsNothingUp(t *testing.T) {
	r := newRig(t, status(http.StatusNotFound))
	in, out := io.Pipe()
	defer out.Close()
	go io.Copy(out, newPattern(1<<20)) // and never the end
	resp, _ := r.do(r.request(http.MethodPost, "/pacs/studies", in))
	want(t, "status", resp.StatusCode, http.StatusNotFound)
	must(t, r.proxy.Close(t.Context()))
}

func tlsRemote(t *testing.T) (*httptest.Server, string) {
	t.Helper()
	s := httptest.NewTLSServer(status(200))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	return s, file
}

func (r *rig) aim(raw string, tc TransportConfig) {
	r.t.Helper()
	u, err := url.Parse(raw)
	must(r.t, err)
	transport, err := NewTransport(tc)
	must(r.t, err)
	must(r.t, r.proxy.SetUpstreams([]Upstream{{Name: "pacs", URL: u, Source: r.source, Transport: transport}}))
}

func TestTransport_VerifiesUnlessTold(t *testing.T) {
	remote, ca := tlsRemote(t)
	r := newRig(t, status(200))
	r.remote.Close()
	for name, c := range map[string]struct {
		cfg    TransportConfig
		status int
	}{
		"system's CAs": {TransportConfig{}, http.StatusBadGateway},
		"CA file":      {TransportConfig{CAFile: ca}, 200},
		"skip":         {TransportConfig{SkipVerify: true}, 200},
	} {
		r.aim(remote.URL, c.cfg)
		resp, body := r.get("/pacs/studies")
		want(t, name, resp.StatusCode, c.status)
		if c.status != 200 {
			f := failureIn(t, body)
			want(t, name, f.ErrorCode, "NET-003")
			want[any](t, "documented status", f.Details["http_status"], 495.0)
		}
	}
}

func TestTransport_RefusesUnusableFilesAndProxies(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o600))
	for name, cfg := range map[string]TransportConfig{
		"missing": {CAFile: empty + ".no"}, "empty": {CAFile: empty}, "proxy": {Proxy: "http://user:canary@"},
	} {
		_, err := NewTransport(cfg)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTransport_UsesOrthancsProxyAndSparesLoopback(t *testing.T) {
	t.Setenv("http_proxy", "")
	transport, err := NewTransport(TransportConfig{Proxy: "user:pw@proxy.example:3128"})
	must(t, err)
	for target, proxied := range map[string]string{
		"http://remote.example/x": "http://user:pw@proxy.example:3128", "https://remote.example/x": "http://user:pw@proxy.example:3128",
		"http://127.0.0.1:8042/": "", "http://localhost/": "",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		must(t, err)
		u, err := transport.Proxy(req)
		must(t, err)
		got := ""
		if u != nil {
			got = u.String()
		}
		want(t, target, got, proxied)
	}
}

// A server that closes with unread bytes makes writes fail while its 401 is
// already there to be read.
func TestTransport_EarlyAnswerBeforeACutConnectionIsSeen(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadFull(c, make([]byte, 4096))
			io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
			c.Close() // with bytes unread: a reset follows
		}
	}()
	r := newRig(t, status(200))
	r.aim("http://"+l.Addr().String(), TransportConfig{})
	for range 20 {
		resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(4<<20))))
		want(t, "status", resp.StatusCode, http.StatusBadGateway)
		want(t, "code", failureIn(t, body).ErrorCode, "AUTH-001")
	}
}

func TestLogsAndAnswers_HoldNoSecret(t *testing.T) {
	r := newRig(t, status(401))
	_, a := r.get("/pacs/studies?PatientName=canary-patient")
	r.remote.Close()
	_, b := r.get("/pacs/studies/canary-patient")
	req := r.request(http.MethodGet, "/pacs/studies", nil)
	req.Header.Set("Authorization", "Bearer canary-caller")
	_, c := r.do(req)
	all := a + b + c + r.log.String()
	for _, secret := range []string{"token-1", "token-2", testPassword, "canary"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q leaked: %s", secret, all)
		}
	}
}

func TestCancelled_TellsWhoEndedIt(t *testing.T) {
	if f := cancelled(t.Context()); f != nil {
		t.Errorf("a live context: %v", f)
	}
	for cause, status := range map[error]int{errClosing: 503, errIdle: 504, context.Canceled: statusClientGone} {
		want(t, cause.Error(), cancelledBy(cause).dataStatus(), status)
	}
}
