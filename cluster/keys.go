package cluster

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// Bounds of the ring: add everywhere, use everywhere, remove everywhere needs
// three at once, and 32 bytes is what a key of 256 bits takes.
const (
	maxSecrets = 3
	minSecret  = 32
)

// noSecret stands in for the ring where gossip without a key is allowed, so
// that there is one code path; everybody knows it.
const noSecret = "orthanc-oauth without a secret key: anybody may join"

// instant is when certificates of the derived CA are verified, whatever the
// clock says: possession of the key is membership, and a wrong clock must not
// split a fleet.
var instant = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// PKI names the files of an operator's own certificates, which then replace the
// derived CA and are verified against the real time. Packets stay sealed with
// keys of the secret ring.
type PKI struct {
	CAFile   string // certificates that sign peers, PEM
	CertFile string // this node's certificate for client and server use, PEM
	KeyFile  string // its key, PEM
}

// Fingerprint names a secret of the ring without telling anything of it.
type Fingerprint [4]byte

// FingerprintOf returns the fingerprint of a secret in the cluster of that name,
// as Status shows it.
func FingerprintOf(secret []byte, clusterName string) (Fingerprint, error) {
	print, err := derive(secret, "fingerprint", clusterName, len(Fingerprint{}))
	if err != nil {
		return Fingerprint{}, err
	}
	return Fingerprint(print), nil
}

// String returns the fingerprint as eight hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// security is all that follows from one state of the ring. It is immutable; a
// rotation makes another with the next epoch.
type security struct {
	epoch        uint64
	fingerprints []Fingerprint
	seal         cipher.AEAD   // of the first secret
	open         []cipher.AEAD // of all
	leaf         tls.Certificate
	roots        *x509.CertPool
	derived      bool             // leaves name the instance and are verified at a fixed instant
	now          func() time.Time // used with an operator's PKI
}

// forge makes a security: keys from secrets, certificates from them or from pki.
func forge(secrets [][]byte, clusterName, id string, pki *PKI, now func() time.Time) (*security, error) {
	if len(secrets) == 0 {
		secrets = [][]byte{[]byte(noSecret)}
	}
	s := &security{now: now, roots: x509.NewCertPool()}
	for i, secret := range secrets {
		if err := s.addPacketKey(secret, clusterName); err != nil {
			return nil, err
		}
		if pki == nil {
			if err := s.addAuthority(secret, clusterName, id, i == 0); err != nil {
				return nil, err
			}
		}
	}
	s.seal, s.derived = s.open[0], pki == nil
	if pki != nil {
		return s, s.load(pki)
	}
	return s, nil
}

// derive returns n bytes of a secret for one purpose in one cluster.
func derive(secret []byte, purpose, clusterName string, n int) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "orthanc-oauth cluster 1 "+purpose+" "+clusterName, n)
	if err != nil {
		return nil, fmt.Errorf("derive %s key: %w", purpose, err)
	}
	return key, nil
}

func (s *security) addPacketKey(secret []byte, clusterName string) error {
	key, err := derive(secret, "packets", clusterName, 32)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return fmt.Errorf("packet cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return fmt.Errorf("packet cipher: %w", err)
	}
	print, err := FingerprintOf(secret, clusterName)
	if err != nil {
		return err
	}
	s.open = append(s.open, aead)
	s.fingerprints = append(s.fingerprints, print)
	return nil
}

// addAuthority trusts the CA of a secret; the primary's signs this node's leaf.
func (s *security) addAuthority(secret []byte, clusterName, id string, primary bool) error {
	seed, err := derive(secret, "authority", clusterName, ed25519.SeedSize)
	if err != nil {
		return err
	}
	// NewKeyFromSeed and fixed fields: every node must come to the same CA.
	key := ed25519.NewKeyFromSeed(seed)
	template := authority()
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("derive authority: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("derive authority: %w", err)
	}
	s.roots.AddCert(ca)
	if !primary {
		return nil
	}
	s.leaf, err = sign(ca, key, id)
	return err
}

func authority() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "orthanc-oauth cluster"},
		NotBefore:             instant.AddDate(-1, 0, 0),
		NotAfter:              instant.AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

// sign makes a leaf whose subject is the instance id.
func sign(ca *x509.Certificate, caKey ed25519.PrivateKey, id string) (tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("leaf key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: id},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, pub, caKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign leaf: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// load reads an operator's files.
func (s *security) load(pki *PKI) error {
	pem, err := os.ReadFile(pki.CAFile)
	if err != nil {
		return fmt.Errorf("cluster CA: %w", err)
	}
	if !s.roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("cluster CA %s: no certificate in PEM", pki.CAFile)
	}
	if s.leaf, err = tls.LoadX509KeyPair(pki.CertFile, pki.KeyFile); err != nil {
		return fmt.Errorf("cluster certificate: %w", err)
	}
	return nil
}

// checkSecrets returns an error that names the bound a ring is outside of.
func checkSecrets(secrets [][]byte) error {
	if len(secrets) > maxSecrets {
		return fmt.Errorf("%d secrets in the ring, at most %d", len(secrets), maxSecrets)
	}
	for i, s := range secrets {
		if len(s) < minSecret {
			return fmt.Errorf("secret %d of the ring has %d bytes, at least %d", i+1, len(s), minSecret)
		}
	}
	return nil
}

// errKey says that the other side's certificate does not follow from our ring:
// another secret, another cluster name, or no key at all.
var errKey = errors.New("certificate not signed by this cluster's key")

// verify checks a peer's chain for one use.
func (s *security) verify(chain []*x509.Certificate, use x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return errKey
	}
	opts := x509.VerifyOptions{
		Roots:         s.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   instant,
		KeyUsages:     []x509.ExtKeyUsage{use},
	}
	if !s.derived {
		opts.CurrentTime = s.now()
		for _, c := range chain[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("%w: %w", errKey, err)
	}
	if s.derived && !validID(chain[0].Subject.CommonName) {
		return fmt.Errorf("%w: it names no instance", errKey)
	}
	return nil
}
