package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
)

// sameSecret compares in a time that tells neither content nor length.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// Credential returns a check for one user's HTTP Basic credentials: those with
// which the plugin registers itself. A second Authorization header fails it.
func Credential(user, password string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		u, p, ok := r.BasicAuth()
		// Both are compared in any case.
		sameUser, samePassword := sameSecret(u, user), sameSecret(p, password)
		return ok && single(r) && sameUser && samePassword
	}
}

// NewPassword returns 32 random characters for Credential.
func NewPassword() string { return rand.Text() + rand.Text()[:6] }

// minToken is what an admin token must have: 16 characters from a generator
// cannot be tried out over HTTP.
const minToken = 16

// Bearer returns a check for an admin token, the content of AdminTokenFile.
func Bearer(file []byte) (func(*http.Request) bool, error) {
	token := strings.TrimSpace(string(file))
	if len(token) < minToken || strings.ContainsAny(token, " \t\r\n") {
		return nil, errors.New("admin token: expected one line of at least 16 characters without blanks; try: openssl rand -hex 32")
	}
	return func(r *http.Request) bool {
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		same := sameSecret(strings.TrimSpace(given), token)
		return single(r) && strings.EqualFold(scheme, "Bearer") && same
	}, nil
}

// single refuses two Authorization headers: which one counts is anybody's guess.
func single(r *http.Request) bool { return len(r.Header.Values("Authorization")) == 1 }

// seal is a keyed digest that stands for credentials in a cache: useless to
// whoever reads the memory later, and comparable in any way.
type seal struct{ key [32]byte }

func newSeal() *seal {
	s := &seal{}
	rand.Read(s.key[:]) // crypto/rand.Read never fails since Go 1.24
	return s
}

func (s *seal) of(user, password string) (sum [32]byte) {
	mac := hmac.New(sha256.New, s.key[:])
	digest := sha256.Sum256([]byte(user)) // of fixed length: "a"+"bc" is not "ab"+"c"
	mac.Write(digest[:])
	mac.Write([]byte(password))
	mac.Sum(sum[:0])
	return sum
}
