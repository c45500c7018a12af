package idptest

import (
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Client is one registered client.
type Client struct {
	ID string `json:"id"`
	// Secrets that are accepted now; two while a rotation overlaps.
	Secrets []string `json:"secrets"`
	// Styles are the authentication styles accepted ("basic", "post"); none
	// means both.
	Styles []string `json:"styles,omitempty"`
	// Scopes allowed; none means any.
	Scopes []string `json:"scopes,omitempty"`
	// Audience that must be asked for, if any.
	Audience string `json:"audience,omitempty"`
}

// SetSecrets replaces the secrets that a client may use: old and new together
// while a rotation overlaps, then the new one alone.
func (i *IdP) SetSecrets(client string, secrets ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c := i.clients[client]; c != nil {
		c.Secrets = slices.Clone(secrets)
		return
	}
	i.clients[client] = &Client{ID: client, Secrets: slices.Clone(secrets)}
}

// maxForm bounds a token request: far above any real one.
const maxForm = 64 << 10

// request is what a token request says, before anything is believed.
type request struct {
	method, contentType string
	form                url.Values
	formErr             error
	inURL               bool // parameters in the URL, where they end up in logs
	style               string
	id, secret          string
	malformedBasic      bool
}

func readRequest(w http.ResponseWriter, r *http.Request) request {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	req := request{
		method:      r.Method,
		contentType: r.Header.Get("Content-Type"),
		inURL:       r.URL.RawQuery != "",
		formErr:     r.ParseForm(),
		form:        r.PostForm,
	}
	req.authentication(r.Header.Get("Authorization"))
	return req
}

func (q *request) authentication(header string) {
	posted := q.form.Get("client_secret") != ""
	switch {
	case header != "" && posted:
		q.style = "both"
		q.id = q.form.Get("client_id")
	case header != "":
		q.style = "basic"
		q.id, q.secret, q.malformedBasic = parseBasic(header)
	case posted:
		q.style = "post"
		q.id, q.secret = q.form.Get("client_id"), q.form.Get("client_secret")
	default:
		q.style = "none"
		q.id = q.form.Get("client_id")
	}
}

// parseBasic reads client credentials as RFC 6749, 2.3.1 wants them: both parts
// form-urlencoded before they are joined. Strictly, as half of the real
// providers are: a byte that encoding would have changed is malformed.
func parseBasic(header string) (id, secret string, malformed bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !strings.EqualFold(scheme, "Basic") {
		return "", "", true
	}
	user, pass, ok := strings.Cut(string(raw), ":")
	if !ok || !formEncoded(user) || !formEncoded(pass) {
		return user, "", true
	}
	id, err = url.QueryUnescape(user)
	if err != nil {
		return user, "", true
	}
	secret, err = url.QueryUnescape(pass)
	return id, secret, err != nil
}

func formEncoded(s string) bool {
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("-._~*+%", rune(c)) {
			return false
		}
	}
	return true
}

// key names what is asked for: requests of one key could have shared one token.
func (q *request) key() string {
	return strings.Join([]string{q.id, q.form.Get("scope"), q.form.Get("audience"), q.form.Get("resource")}, "|")
}

// check returns why the request is refused, or nil.
func (i *IdP) check(q request) *Answer {
	if why := q.shape(); why != "" {
		return &Answer{Status: http.StatusBadRequest, Error: why}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.clients[q.id]
	if c == nil || !c.accepts(q) {
		return &Answer{Status: http.StatusUnauthorized, Error: "invalid_client"}
	}
	if !c.allows(q.form.Get("scope")) {
		return &Answer{Status: http.StatusBadRequest, Error: "invalid_scope"}
	}
	if c.Audience != "" && c.Audience != q.form.Get("audience") {
		return &Answer{Status: http.StatusForbidden, Error: "access_denied"}
	}
	return nil
}

// shape returns the OAuth error code of a request that is wrong whoever sends it.
func (q *request) shape() string {
	form, _, _ := strings.Cut(q.contentType, ";")
	switch {
	case q.method != http.MethodPost, q.formErr != nil, q.inURL, q.style == "both":
		return "invalid_request"
	case strings.TrimSpace(form) != "application/x-www-form-urlencoded":
		return "invalid_request"
	case q.form.Get("grant_type") != "client_credentials":
		return "unsupported_grant_type"
	}
	for name, values := range q.form {
		if len(values) > 1 && name != "resource" { // RFC 6749, 3.2; RFC 8707 allows several resources
			return "invalid_request"
		}
	}
	return ""
}

func (c *Client) accepts(q request) bool {
	if q.malformedBasic || q.style == "none" || len(c.Styles) > 0 && !slices.Contains(c.Styles, q.style) {
		return false
	}
	return slices.ContainsFunc(c.Secrets, func(s string) bool {
		return subtle.ConstantTimeCompare([]byte(s), []byte(q.secret)) == 1
	})
}

func (c *Client) allows(scope string) bool {
	if len(c.Scopes) == 0 {
		return true
	}
	for s := range strings.FieldsSeq(scope) {
		if !slices.Contains(c.Scopes, s) {
			return false
		}
	}
	return true
}
