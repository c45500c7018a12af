package idptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
)

func TestCommand_ShowsAnExpiredCertificateAndGoesDownAsOrdered(t *testing.T) {
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	ready := start(t, "-tls", "-ca-file", caFile, "-ca-key-file", caFile+".key", "-client", clientID+":"+secret)
	remote := Remote{URL: ready.Control, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	ca, err := LoadCA(caFile, caFile+".key")
	if err != nil {
		t.Fatal(err)
	}
	get := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ready.Token, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := ca.Client().Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	order := func(o Order) {
		t.Helper()
		if _, err := remote.Do(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	yes, no := true, false
	if err := get(); err != nil {
		t.Fatalf("at first: %v", err)
	}
	order(Order{Expired: &yes})
	if invalid, ok := errors.AsType[*tls.CertificateVerificationError](get()); !ok {
		t.Error("no complaint about the certificate")
	} else if why, ok := errors.AsType[x509.CertificateInvalidError](invalid.Err); !ok || why.Reason != x509.Expired {
		t.Errorf("the certificate is not expired: %v", invalid.Err)
	}
	order(Order{Expired: &no})
	if err := get(); err != nil {
		t.Errorf("valid again: %v", err)
	}
	order(Order{Down: &yes})
	if err := get(); err == nil {
		t.Error("answered while down")
	}
	order(Order{Down: &no})
	if err := get(); err != nil {
		t.Errorf("up again: %v", err)
	}
}

func TestCommand_GoesOnWithItsAuthority(t *testing.T) {
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	s := settings{caFile: caFile, caKeyFile: caFile + ".key"}
	first, err1 := s.authority()
	second, err2 := s.authority()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if string(first.PEM()) != string(second.PEM()) {
		t.Error("a restart made another authority: those that trust the first are cut off")
	}
}

func TestCommand_Probes(t *testing.T) {
	ready := start(t)
	probe := func(url string) error {
		return Command(context.WithoutCancel(t.Context()), []string{"-probe", url}, t.Output(), t.Output())
	}
	if err := probe(ready.Control + "/report"); err != nil {
		t.Error(err)
	}
	if err := probe(ready.Control + "/nowhere"); err == nil {
		t.Error("a failure passed for health")
	}
}

func TestBooks_NameWhoAcquiredAndWhoUsedAToken(t *testing.T) {
	ready := start(t, "-client", clientID+":"+secret)
	rt := &http.Transport{DisableKeepAlives: true}
	remote := Remote{URL: ready.Control, Client: &http.Client{Transport: rt}}
	granted, err := ask(t.Context(), rt, ready.Token[:len(ready.Token)-len("/token")], nil, basic(clientID, secret))
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{granted.token(), granted.token(), "nobody's"} {
		if _, err := stow(t.Context(), rt, ready.Gate, token, instance(1)); err != nil {
			t.Fatal(err)
		}
	}
	requests, err1 := remote.Requests(t.Context())
	uses, err2 := remote.Uses(t.Context())
	if err1 != nil || err2 != nil || len(requests) != 1 || len(uses) != 2 {
		t.Fatal(requests, uses, err1, err2)
	}
	if r := requests[0]; r.From != "127.0.0.1" || r.Token != Fingerprint(granted.token()) {
		t.Errorf("acquired: %+v", r)
	}
	if u := uses[0]; u.From != "127.0.0.1" || u.Token != requests[0].Token || u.State != Live {
		t.Errorf("used: %+v", u)
	}
	if uses[1].State != Unknown {
		t.Errorf("used: %+v", uses[1])
	}
}
