package idptest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind is what sort of answer a request gets.
type Kind string

// The kinds of answers. Grant is the only one that looks at the credentials.
const (
	Grant     Kind = ""          // a token, as the other fields of Answer say
	Refuse    Kind = "refuse"    // an OAuth error: Status (default 400) and Error
	Throttle  Kind = "throttle"  // 429 with RetryAfter
	Raw       Kind = "raw"       // Status, Header and Body as they are
	HTML      Kind = "html"      // a login page with Status (default 200)
	Empty     Kind = "empty"     // Status (default 200) without a body
	Malformed Kind = "malformed" // a 200 whose JSON ends in the middle
	Truncated Kind = "truncated" // a 200 whose connection ends before its Content-Length
	Endless   Kind = "endless"   // a JSON string that never ends, as fast as it is read
	Huge      Kind = "huge"      // a valid grant behind 1 GB of white space
	Drip      Kind = "drip"      // a valid body at one byte a second
	Hang      Kind = "hang"      // nothing, until the client gives up
	Reset     Kind = "reset"     // the connection is reset
	Redirect  Kind = "redirect"  // Status (default 307) to Location
)

// Answer is one scripted answer. The zero Answer is a plain grant.
type Answer struct {
	Kind  Kind          `json:"kind,omitempty"`
	Delay time.Duration `json:"delay,omitempty"` // before anything is answered; nanoseconds in JSON

	Status     int               `json:"status,omitempty"`
	Header     map[string]string `json:"header,omitempty"`
	Body       string            `json:"body,omitempty"`
	Error      string            `json:"error,omitempty"`
	Location   string            `json:"location,omitempty"`
	RetryAfter string            `json:"retry_after,omitempty"` // as it stands; see RetryAfterDate

	// RetryAfterDate makes Throttle send Retry-After as a date so far from now
	// on this provider's own clock.
	RetryAfterDate time.Duration `json:"retry_after_date,omitempty"`

	Lifetime    time.Duration   `json:"lifetime,omitempty"`      // how long the token really lives; default Options.Lifetime
	ExpiresIn   json.RawMessage `json:"expires_in,omitempty"`    // any JSON; default the lifetime in seconds
	NoExpiresIn bool            `json:"no_expires_in,omitempty"` // leave expires_in out
	TokenType   string          `json:"token_type,omitempty"`    // default "Bearer"
	NoTokenType bool            `json:"no_token_type,omitempty"`
	Scope       string          `json:"scope,omitempty"`        // what the answer says was granted
	AccessToken string          `json:"access_token,omitempty"` // these bytes instead of new ones
	Repeat      bool            `json:"repeat,omitempty"`       // the last token of this client again while it lives, even if revoked
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (i *IdP) misbehave(w http.ResponseWriter, r *http.Request, a Answer) {
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	switch a.Kind {
	case Refuse:
		refuse(w, a)
	case Throttle:
		i.throttle(w, a)
	case Raw:
		write(w, or(a.Status, http.StatusOK), "", a.Body)
	case HTML:
		write(w, or(a.Status, http.StatusOK), "text/html; charset=utf-8", loginPage)
	case Empty:
		write(w, or(a.Status, http.StatusOK), "", "")
	case Malformed:
		write(w, http.StatusOK, "application/json", `{"access_token":"half-a-token","expires_`)
	case Truncated:
		w.Header().Set("Content-Length", "4096")
		write(w, http.StatusOK, "application/json", `{"access_token":"half-a-token",`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case Endless:
		pour(w, r, `{"access_token":"`, strings.Repeat("A", 32<<10), -1, "")
	case Huge:
		pour(w, r, "", strings.Repeat(" ", 32<<10), 1<<30, grantBody("huge", time.Hour, a))
	case Drip:
		drip(w, r, a)
	case Hang:
		<-r.Context().Done()
	case Reset:
		reset(w)
	case Redirect:
		w.Header().Set("Location", a.Location)
		write(w, or(a.Status, http.StatusTemporaryRedirect), "", "")
	default:
		http.Error(w, "unknown kind of answer "+strconv.Quote(string(a.Kind)), http.StatusNotImplemented)
	}
}

const loginPage = "<!doctype html><title>Sign in</title><form><input name=user><input name=password type=password></form>"

func or(status, otherwise int) int {
	if status != 0 {
		return status
	}
	return otherwise
}

func write(w http.ResponseWriter, status int, contentType, body string) {
	if contentType != "" && w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client may be gone, which is its affair
}

func refuse(w http.ResponseWriter, a Answer) {
	status := or(a.Status, http.StatusBadRequest)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="idptest"`)
	}
	if a.RetryAfter != "" {
		w.Header().Set("Retry-After", a.RetryAfter)
	}
	code := a.Error
	if code == "" {
		code = "invalid_request"
	}
	writeJSON(w, status, map[string]string{"error": code, "error_description": "scripted refusal"})
}

func (i *IdP) throttle(w http.ResponseWriter, a Answer) {
	switch {
	case a.RetryAfterDate != 0:
		w.Header().Set("Retry-After", i.now().Add(a.RetryAfterDate).UTC().Format(http.TimeFormat))
	case a.RetryAfter != "":
		w.Header().Set("Retry-After", a.RetryAfter)
	}
	writeJSON(w, or(a.Status, http.StatusTooManyRequests), map[string]string{"error": "temporarily_unavailable"})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, status, "application/json", string(body))
}

// pour sends head, then chunk until total bytes are out (for ever if negative),
// then tail, or stops when the client goes away.
func pour(w http.ResponseWriter, r *http.Request, head, chunk string, total int, tail string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, head)
	for sent := 0; total < 0 || sent < total; sent += len(chunk) {
		if r.Context().Err() != nil {
			return
		}
		if _, err := io.WriteString(w, chunk); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, tail)
}

func drip(w http.ResponseWriter, r *http.Request, a Answer) {
	w.Header().Set("Content-Type", "application/json")
	for _, b := range []byte(grantBody("dripping", time.Hour, a)) {
		if !pause(r.Context(), time.Second) {
			return
		}
		if _, err := w.Write([]byte{b}); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
}

// reset ends the connection with RST where there is one, and in any case
// without an answer.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := underlying(conn).(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // close sends RST instead of FIN
	}
	_ = conn.Close()
}

func underlying(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}
