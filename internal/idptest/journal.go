package idptest

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"time"
)

// Use is a moment at which a client came to the gate with a token: with another
// one than before, or after a second in which it was not noted.
type Use struct {
	At    time.Time  `json:"at"`
	From  string     `json:"from"`  // address, without the port
	Token string     `json:"token"` // Fingerprint
	State TokenState `json:"state"`
}

// Fingerprint names a token in the books, which hold none.
func Fingerprint(token string) string {
	if token == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

// journal is who used which token when.
type journal struct {
	uses []Use
	last map[string]Use // by client
}

// maxUses bounds the journal: hours of a chaos run.
const maxUses = 1 << 16

func (j *journal) note(r *http.Request, token string, state TokenState) {
	if j.last == nil {
		j.last = map[string]Use{}
	}
	u := Use{At: time.Now(), From: host(r), Token: Fingerprint(token), State: state}
	if last := j.last[u.From]; last.Token == u.Token && last.State == u.State && u.At.Sub(last.At) < time.Second || len(j.uses) >= maxUses {
		return
	}
	j.last[u.From] = u
	j.uses = append(j.uses, u)
}

// host returns the address that a request came from, without the port.
func host(r *http.Request) string {
	h, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return h
}

// Uses returns who came to the gate with which token, in order.
func (g *Gate) Uses() []Use {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Use{}, g.journal.uses...)
}
