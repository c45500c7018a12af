package idptest

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"time"
)

// Use is a moment at which a client of the gate came with another token than
// before.
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

// journal is who used which token when, one line for each change.
type journal struct {
	uses []Use
	last map[string]Use // by client
}

// maxUses bounds the journal; a long chaos run has some hundred.
const maxUses = 1 << 16

func (j *journal) note(r *http.Request, token string, state TokenState) {
	if j.last == nil {
		j.last = map[string]Use{}
	}
	u := Use{At: time.Now(), From: host(r), Token: Fingerprint(token), State: state}
	if last := j.last[u.From]; last.Token == u.Token && last.State == u.State || len(j.uses) >= maxUses {
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

// Uses returns the changes of tokens that the gate has seen, in order.
func (g *Gate) Uses() []Use {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Use{}, g.journal.uses...)
}
