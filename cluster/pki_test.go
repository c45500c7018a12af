package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// authorityOf is an operator's own CA.
type authorityOf struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authorityOf {
	t.Helper()
	a := &authorityOf{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hospital CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.issue(template, template, nil, a.file, "")
	return a
}

func (a *authorityOf) issue(template, parent *x509.Certificate, signer *ecdsa.PrivateKey, certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	err = os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	if keyFile != "" {
		err = errors.Join(err, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// leaf issues a node's certificate that is valid for a time.
func (a *authorityOf) leaf(valid time.Duration) *PKI {
	a.t.Helper()
	dir := a.t.TempDir()
	p := &PKI{CAFile: a.file, CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node.key")}
	a.renew(p, valid)
	return p
}

func (a *authorityOf) renew(p *PKI, valid time.Duration) {
	a.t.Helper()
	a.issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "pacs"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key, p.CertFile, p.KeyFile)
}

func TestPKI_OperatorsCertificatesReplaceTheDerivedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		ca, shared := newAuthority(t), (*PKI)(nil)
		shared = ca.leaf(time.Hour) // one certificate on every node: instances are told apart all the same
		nodes := l.fleet(3, func(c *Config) { c.PKI = shared })
		defer l.end()
		derived := l.start(3)
		foreign := l.start(4, func(c *Config) { c.PKI = newAuthority(t).leaf(time.Hour) })
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		for i, from := range nodes {
			if err := ask(t.Context(), from, nodes[(i+1)%3], "x"); err != nil {
				t.Error(err)
			}
		}
		stale := nodes[1].Self()
		stale.ID = newID()
		if err := nodes[0].Ping(t.Context(), stale); err == nil {
			t.Error("another instance answered")
		}
		time.Sleep(time.Minute)
		// Packets are sealed with the same secret, so these two are heard of, but
		// nothing is exchanged with them.
		for _, c := range []*Cluster{derived, foreign} {
			if err := ask(t.Context(), c, nodes[0], "x"); !errors.Is(err, errKey) {
				t.Errorf("%s: %v", c.Self().Name, err)
			}
			if c.hasJoined() {
				t.Errorf("%s joined", c.Self().Name)
			}
		}
	})
}

func TestPKI_KeepsRealTimeAndReadsRenewedFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		ca := newAuthority(t)
		pki := ca.leaf(10 * time.Minute)
		nodes := l.fleet(2, func(c *Config) { c.PKI = pki })
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		time.Sleep(11 * time.Minute)
		nodes[0].client.Load().CloseIdleConnections()
		if err := ask(t.Context(), nodes[0], nodes[1], "x"); !errors.Is(err, errKey) {
			t.Errorf("with an expired certificate: %v", err)
		}
		ca.renew(pki, time.Hour)
		for _, c := range nodes {
			if err := c.SetSecrets([][]byte{secret(1)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(t.Context(), nodes[0], nodes[1], "x"); err != nil {
			t.Error(err)
		}
	})
}

// Its certificate does not tell a node that it has dialled itself.
func TestPKI_JoinedIsAnotherInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		pki := newAuthority(t).leaf(time.Hour)
		c := l.start(0, func(c *Config) { c.PKI, c.AdvertiseAddr, c.BindAddr = pki, "192.0.2.1", "10.0.0.77" })
		defer l.end()
		time.Sleep(time.Minute)
		if c.hasJoined() || c.exchanged.Load() {
			t.Error("joined itself")
		}
	})
}
