package idptest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// start runs Command until the test ends.
func start(t *testing.T, args ...string) Ready {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Command(ctx, args, in, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready Ready
	if err := json.Unmarshal(line, &ready); err != nil {
		t.Fatal(err)
	}
	return ready
}

func TestCommand_IsControlledFromOutside(t *testing.T) {
	ready := start(t, "-client", clientID+":"+secret)
	rt := &http.Transport{DisableKeepAlives: true}
	remote := Remote{URL: ready.Control, Client: &http.Client{Transport: rt}}
	base := strings.TrimSuffix(ready.Token, "/token")
	first, err := remote.Do(t.Context(), Order{Script: []Answer{{Kind: Throttle, RetryAfter: "7"}}})
	if err != nil || first.IdP.Total != 0 {
		t.Fatal(first, err)
	}
	throttled, err1 := ask(t.Context(), rt, base, nil, basic(clientID, secret))
	granted, err2 := ask(t.Context(), rt, base, nil, basic(clientID, secret))
	if err1 != nil || err2 != nil || throttled.status != 429 || granted.status != 200 {
		t.Fatal(throttled.status, granted.status, err1, err2)
	}
	if status, err := stow(t.Context(), rt, ready.Gate, granted.token(), instance(1)); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	if state := Introspect(base, remote.Client)(granted.token()); state != Live {
		t.Fatalf("introspected as %s", state)
	}
	if _, err := remote.Do(t.Context(), Order{Revoke: []string{granted.token()}}); err != nil {
		t.Fatal(err)
	}
	if state := Introspect(base, remote.Client)(granted.token()); state != Revoked {
		t.Fatalf("introspected as %s", state)
	}
	if status, err := stow(t.Context(), rt, ready.Gate, granted.token(), instance(2)); status != 401 || err != nil {
		t.Fatal(status, err)
	}
	report, err := remote.Report(t.Context())
	if err != nil || report.IdP.Total != 2 || report.IdP.Granted != 1 || report.Gate.Accepted != 1 || report.Gate.Revoked != 1 || report.Target.Stored != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	requests, err := remote.Requests(t.Context())
	if err != nil || len(requests) != 2 || requests[0].Answer != "throttle" {
		t.Fatalf("%+v, %v", requests, err)
	}
	if tokens, err := remote.Tokens(t.Context()); err != nil || len(tokens) != 1 || tokens[0] != granted.token() {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
}

func TestCommand_ServesTLSUnderItsOwnAuthority(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	ready := start(t, "-tls", "-ca-file", ca)
	if !strings.HasPrefix(ready.Token, "https://") {
		t.Fatal(ready.Token)
	}
	if pem, err := os.ReadFile(ca); err != nil || !strings.Contains(string(pem), "BEGIN CERTIFICATE") {
		t.Fatalf("%q, %v", pem, err)
	}
}

func TestCommand_RefusesWrongFlags(t *testing.T) {
	for _, args := range [][]string{{"-client", "nosecret"}, {"-upstream", "not a url"}, {"-listen", "999.0.0.1:1"}, {"-what"}} {
		if err := Command(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: accepted", args)
		}
	}
}

func TestCommand_NotesNamedRequestsAtTheGateAndPastIt(t *testing.T) {
	ready := start(t, "-client", clientID+":"+secret, "-open", "127.0.0.1:0")
	remote := Remote{URL: ready.Control, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	for _, c := range []struct {
		base, mark string
		status     int
	}{{ready.Gate, "at the gate", http.StatusUnauthorized}, {ready.Open, "past it", http.StatusOK}, {ready.Open, "", http.StatusOK}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/dicom-web/studies", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(MarkHeader, c.mark)
		resp, err := remote.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.mark, resp.StatusCode, c.status)
		}
	}
	seen, err := remote.Marks(t.Context())
	if err != nil || len(seen) != 2 || seen[0].Mark != "at the gate" || seen[1].Mark != "past it" || seen[0].Over.Before(seen[0].Arrived) {
		t.Errorf("the book holds %+v, %v", seen, err)
	}
}
