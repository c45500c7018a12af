package idptest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// TokenState is what the provider knows about a token.
type TokenState string

// The states of a token.
const (
	Live    TokenState = "live"
	Expired TokenState = "expired"
	Revoked TokenState = "revoked"
	Unknown TokenState = "unknown"
)

type issued struct {
	client  string
	expires time.Time // with a monotonic reading: a jump of the wall clock kills no token
	revoked bool
}

// maxTokens bounds the memory of tokens; the chaos runs issue some thousands.
const maxTokens = 1 << 17

func (i *IdP) grant(w http.ResponseWriter, seen *Request, q request, a Answer) {
	token, left := i.issue(q.id, a)
	i.note(seen, "granted")
	i.granted(seen, token)
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	w.Header().Set("Cache-Control", "no-store")
	write(w, or(a.Status, http.StatusOK), "application/json", grantBody(token, left, a))
}

// issue returns the token that the answer wants and how long it still lives.
func (i *IdP) issue(client string, a Answer) (string, time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := i.last[client]
	if t := i.tokens[last]; a.Repeat && t != nil && time.Now().Before(t.expires) {
		return last, time.Until(t.expires)
	}
	life := a.Lifetime
	if life == 0 {
		life = i.opts.Lifetime
	}
	token := a.AccessToken
	if token == "" {
		token = i.mint(client, life)
	}
	if len(i.tokens) >= maxTokens {
		clear(i.tokens) // a run of that length has long stopped using the first ones
	}
	i.tokens[token] = &issued{client: client, expires: time.Now().Add(life)}
	i.last[client] = token
	return token, life
}

// mint returns new token bytes of the configured shape.
func (i *IdP) mint(client string, life time.Duration) string {
	var id [16]byte
	rand.Read(id[:])
	if !i.opts.JWT {
		return "idptest-" + hex.EncodeToString(id[:])
	}
	now := i.now()
	claims := map[string]any{"sub": client, "jti": hex.EncodeToString(id[:]), "iat": now.Unix(), "exp": now.Add(life).Unix()}
	return segment(map[string]any{"alg": "none", "typ": "JWT"}) + "." + segment(claims) + "."
}

func segment(v map[string]any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// grantBody is the JSON of a grant.
func grantBody(token string, left time.Duration, a Answer) string {
	fields := map[string]json.RawMessage{"access_token": quote(token)}
	switch {
	case a.NoExpiresIn:
	case a.ExpiresIn != nil:
		fields["expires_in"] = a.ExpiresIn
	default:
		fields["expires_in"] = fmt.Appendf(nil, "%d", int64(left.Seconds()))
	}
	if !a.NoTokenType {
		fields["token_type"] = quote(orText(a.TokenType, "Bearer"))
	}
	if a.Scope != "" {
		fields["scope"] = quote(a.Scope)
	}
	// By hand, so that ExpiresIn may be something that is no JSON at all.
	parts := make([]string, 0, len(fields))
	for _, name := range []string{"access_token", "token_type", "expires_in", "scope"} {
		if v, ok := fields[name]; ok {
			parts = append(parts, fmt.Sprintf("%q:%s", name, v))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func quote(s string) json.RawMessage {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return raw
}

func orText(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// State tells what the provider knows about a token.
func (i *IdP) State(token string) TokenState {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.tokens[token]
	switch {
	case t == nil:
		return Unknown
	case t.revoked:
		return Revoked
	case !time.Now().Before(t.expires):
		return Expired
	}
	return Live
}

// Revoke kills one token and reports whether it was known.
func (i *IdP) Revoke(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.tokens[token]
	if t != nil {
		t.revoked = true
	}
	return t != nil
}

// RevokeAll kills every token issued so far and returns how many were live.
func (i *IdP) RevokeAll() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	now := time.Now()
	for _, t := range i.tokens {
		if !t.revoked && now.Before(t.expires) {
			n++
		}
		t.revoked = true
	}
	return n
}

// Tokens returns every token issued so far, in no order: the canaries that must
// show up in no log.
func (i *IdP) Tokens() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]string, 0, len(i.tokens))
	for t := range i.tokens {
		out = append(out, t)
	}
	return out
}

// introspect answers RFC 7662, with the state beside it.
func (i *IdP) introspect(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		http.Error(w, "POST token=...", http.StatusBadRequest)
		return
	}
	state := i.State(r.PostForm.Get("token"))
	writeJSON(w, http.StatusOK, map[string]any{"active": state == Live, "state": state})
}

// Introspect returns a function that asks the provider at base (its URL without
// a path) for the state of a token: for a Gate in another process.
func Introspect(base string, client *http.Client) func(token string) TokenState {
	return func(token string) TokenState {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var answer struct {
			State TokenState `json:"state"`
		}
		form := url.Values{"token": {token}}.Encode()
		if err := call(ctx, client, base+"/introspect", "application/x-www-form-urlencoded", form, &answer); err != nil {
			return Unknown // a gate that cannot ask lets nobody in
		}
		return answer.State
	}
}
