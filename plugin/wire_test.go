package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// realConf is a configuration for a whole node; its servers' addresses are those
// of url.
func realConf(url, more string) string {
	return fmt.Sprintf(`{"DicomWeb": {"OAuth": {%s "Servers": [{
		"Name": "pacs", "Url": "%s/dicom-web", "TokenEndpoint": "%s/token",
		"ClientId": "orthanc", "ClientSecret": "canary-and-long-enough-for-anybody"
	}]}}}`, more, url, url)
}

func TestWhole_SendsWithATokenAndLetsNobodyElseSend(t *testing.T) {
	requireNoLeak(t)
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"canary-token","token_type":"Bearer","expires_in":3600}`)
		case "/dicom-web/studies":
			_, _ = io.WriteString(w, r.Header.Get("Authorization"))
		}
	}))
	defer remote.Close()
	o, creds := newFakeOrthanc(), credentials{}
	o.conf = realConf(remote.URL, "")
	p, err := newPlugin(o, assembleWith(newNode))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Started()
	creds.user, creds.password = p.registrar.want["pacs"].Username, p.registrar.want["pacs"].Password
	for password, want := range map[string]string{creds.password: "Bearer canary-token", "wrong": ""} {
		resp, err := ask(t, &fakeNode{creds: creds}, p.registrar.want["pacs"].URL+"studies", password)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (want == "") != (resp.StatusCode != http.StatusOK) || want != "" && string(body) != want {
			t.Errorf("password %.5q...: %d %q", password, resp.StatusCode, body)
		}
	}
	p.RefreshGauges()
	if o.gauges["orthanc_oauth_servers"] != 1 {
		t.Errorf("gauges %v", o.gauges)
	}
	p.Stopped()
	if lines := append(o.logged("canary"), o.logged(creds.password)...); len(lines) != 0 {
		t.Errorf("secrets logged: %q", lines)
	}
}

func TestWhole_RefusesAGossipPortThatIsTaken(t *testing.T) {
	requireNoLeak(t)
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	o := newFakeOrthanc()
	o.conf = realConf("http://127.0.0.1:1", fmt.Sprintf(`"CacheBackend": "gossip",
		"Gossip": {"BindAddr": "127.0.0.1", "BindPort": %d},`, taken.Addr().(*net.TCPAddr).Port))
	if p, err := newPlugin(o, assembleWith(newNode)); err == nil {
		p.Close()
		t.Error("accepted")
	}
}
