package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// The tests of this file are rows 22 to 32 of the fault matrix: one real sidecar
// with a server, and a scripted provider, for each fault.

// fault is a provider that answers nonsense, and what a caller and the provider
// then see.
type fault struct {
	name     string
	answer   idptest.Answer
	server   map[string]any // changes of the server's configuration
	status   int            // of the data path
	code     string
	requests int           // the most that the provider may count for one acquisition
	quiet    time.Duration // for at least how long the caller is told to wait
}

const jsonTypes = "application/json"

func raw(body string) idptest.Answer {
	return idptest.Answer{Kind: idptest.Raw, Header: map[string]string{"Content-Type": jsonTypes}, Body: body}
}

func token(bytes string) idptest.Answer { return idptest.Answer{AccessToken: bytes} }

// leaked is what no log may repeat of a provider's answers.
var leaked = []string{"Sign in", "half-a-token", "X-Planted", "planted-body"}

var faults = []fault{
	{name: "refused-basic", answer: refusing(401, "invalid_client"), server: style("basic"), status: 502, code: "AUTH-001", requests: 1, quiet: 28 * time.Second},
	{name: "refused-auto", answer: refusing(401, "invalid_client"), status: 502, code: "AUTH-001", requests: 2, quiet: 28 * time.Second},
	{name: "refused-as-200", answer: raw(`{"error":"invalid_client"}`), status: 502, code: "AUTH-001", requests: 2, quiet: 28 * time.Second},
	{name: "refused-as-403", answer: idptest.Answer{Kind: idptest.Raw, Status: 403}, status: 502, code: "AUTH-002", requests: 1, quiet: 28 * time.Second},
	{name: "bad-scope", answer: refusing(400, "invalid_scope"), status: 502, code: "AUTH-002", requests: 1, quiet: 28 * time.Second},
	{name: "unavailable", answer: idptest.Answer{Kind: idptest.Raw, Status: 503, Body: "planted-body"}, status: 503, code: "AUTH-003", requests: 3},
	{name: "broken", answer: idptest.Answer{Kind: idptest.HTML, Status: 500}, status: 503, code: "AUTH-003", requests: 3},
	{name: "throttled", answer: idptest.Answer{Kind: idptest.Throttle}, status: 503, code: "AUTH-003", requests: 1},
	{name: "throttled-until-a-date", answer: idptest.Answer{Kind: idptest.Throttle, RetryAfterDate: 20 * time.Second}, status: 503, code: "AUTH-003", requests: 1, quiet: 17 * time.Second},
	{name: "throttled-for-a-day", answer: idptest.Answer{Kind: idptest.Throttle, RetryAfter: "86400"}, status: 503, code: "AUTH-003", requests: 1, quiet: 9 * time.Minute},
	{name: "html", answer: idptest.Answer{Kind: idptest.HTML}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "empty", answer: idptest.Answer{Kind: idptest.Empty}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "malformed", answer: idptest.Answer{Kind: idptest.Malformed}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "array", answer: raw(`["planted-body"]`), status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "no-token", answer: raw(`{"token_type":"Bearer","expires_in":60}`), status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "mac-token", answer: idptest.Answer{TokenType: "mac"}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "endless", answer: idptest.Answer{Kind: idptest.Endless}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "gigabyte", answer: idptest.Answer{Kind: idptest.Huge}, status: 502, code: "TOK-005", requests: 1, quiet: 3 * time.Second},
	{name: "dripping", answer: idptest.Answer{Kind: idptest.Drip}, status: 504, code: "NET-001", requests: 1},
	{name: "silent", answer: idptest.Answer{Kind: idptest.Hang}, status: 504, code: "NET-001", requests: 1},
	{name: "cut-short", answer: idptest.Answer{Kind: idptest.Truncated}, status: 502, code: "NET-002", requests: 3},
	{name: "reset", answer: idptest.Answer{Kind: idptest.Reset}, status: 502, code: "NET-002", requests: 3},
	{name: "token-with-line-end", answer: token("ey\r\nX-Planted: 1"), status: 502, code: "TOK-004", requests: 1, quiet: 3 * time.Second},
	{name: "token-not-ascii", answer: token("tökén-X-Planted"), status: 502, code: "TOK-004", requests: 1, quiet: 3 * time.Second},
	{name: "token-too-large", answer: token(strings.Repeat("A", 64<<10+1)), status: 502, code: "TOK-004", requests: 1, quiet: 3 * time.Second},
}

func refusing(status int, code string) idptest.Answer {
	return idptest.Answer{Kind: idptest.Refuse, Status: status, Error: code}
}

func style(s string) map[string]any { return map[string]any{"AuthStyle": s} }

// provider is a scripted provider of one server.
type provider struct {
	*idptest.IdP
	issuer *idptest.Server
	server string
}

// provider adds a provider, and the server that uses it to a section.
func (w *world) provider(t *testing.T, section map[string]any, server string, opts idptest.ServerOptions, changes map[string]any) *provider {
	t.Helper()
	p := &provider{IdP: idptest.New(idptest.Options{Clients: []idptest.Client{w.client}}), server: server}
	p.issuer = listen(t, p.IdP, opts)
	w.others = append(w.others, p.IdP)
	conf := w.server()
	conf["TokenEndpoint"] = p.issuer.URL + "/token"
	maps.Copy(conf, changes)
	section["Servers"].(map[string]any)[server] = conf
	return p
}

func TestProvider_NonsenseIsATypedErrorAndAPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	section := w.section("memory")
	providers := make([]*provider, len(faults))
	for i, f := range faults {
		providers[i] = w.provider(t, section, f.name, idptest.ServerOptions{}, f.server)
		providers[i].Always(f.answer)
	}
	node := w.sidecar(t, "node", section)
	t.Run("group", func(t *testing.T) {
		for i, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				f.check(t, node, providers[i])
			})
		}
	})
	alive(t, node.Client)
	for _, text := range leaked {
		if strings.Contains(node.Log(1<<20), text) {
			t.Errorf("the log repeats %q of a provider's answer", text)
		}
	}
}

// check asks once, and then again while the pause lasts.
func (f fault) check(t *testing.T, node *fleet.Sidecar, p *provider) {
	first := f.refused(t, node)
	if wait := retryAfter(first); wait < f.quiet {
		t.Errorf("Retry-After is %v, want at least %v", wait, f.quiet)
	}
	if n := p.Counts().Total; n < 1 || n > f.requests {
		t.Errorf("one acquisition cost %d requests, want 1 to %d", n, f.requests)
	}
	asked := p.Counts().Total
	for range 3 {
		f.refused(t, node)
	}
	if n := p.Counts().Total; n != asked {
		t.Errorf("the provider was asked %d times during the pause", n-asked)
	}
}

// refused sends one request and asserts what the caller sees of the fault.
func (f fault) refused(t *testing.T, node *fleet.Sidecar) answer {
	t.Helper()
	a, err := query(t.Context(), node, f.name)
	must(t, err)
	if a.status != f.status || a.failure().Code != f.code {
		t.Fatalf("answer is %v, want %d with %s", a, f.status, f.code)
	}
	for _, text := range leaked {
		if strings.Contains(string(a.body), text) {
			t.Errorf("the answer repeats %q of the provider's", text)
		}
	}
	return a
}

func retryAfter(a answer) time.Duration {
	seconds, _ := strconv.Atoi(a.header.Get("Retry-After")) // 0 without one
	return time.Duration(seconds) * time.Second
}

// lifetime is an expires_in and what becomes of it.
type lifetime struct {
	name   string
	answer idptest.Answer
	want   time.Duration // the life that the node believes in
}

func expires(value string) idptest.Answer { return idptest.Answer{ExpiresIn: json.RawMessage(value)} }

func lives(d time.Duration) idptest.Answer { return idptest.Answer{Lifetime: d} }

var lifetimes = []lifetime{
	{"missing", idptest.Answer{NoExpiresIn: true}, 300 * time.Second},
	{"null", expires("null"), 300 * time.Second},
	{"zero", expires("0"), 300 * time.Second},
	{"negative", expires("-1"), 300 * time.Second},
	{"absurd", expires("1e30"), 300 * time.Second},
	{"object", expires("{}"), 300 * time.Second},
	{"string", expires(`"3600"`), time.Hour},
	{"fraction", expires("3599.5"), 3599 * time.Second},
	{"week", expires("604800"), 24 * time.Hour},
	{"half-minute", lives(30 * time.Second), 30 * time.Second},
	{"five-seconds", lives(5 * time.Second), 5 * time.Second},
}

// Rows 28 to 31.
func TestProvider_EveryExpiresInIsALifeAndNotARequestPerCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	section := w.section("memory")
	providers := make([]*provider, len(lifetimes))
	for i, l := range lifetimes {
		providers[i] = w.provider(t, section, l.name, idptest.ServerOptions{}, nil)
		providers[i].Always(l.answer)
	}
	short := w.provider(t, section, "one-second", idptest.ServerOptions{}, nil)
	short.Always(lives(time.Second))
	node := w.sidecar(t, "node", section)
	for i, l := range lifetimes {
		t.Run(l.name, func(t *testing.T) { l.check(t, node, providers[i]) })
	}
	t.Run("one-second", func(t *testing.T) { checkOneSecond(t, node, short) })
}

func (l lifetime) check(t *testing.T, node *fleet.Sidecar, p *provider) {
	begin := time.Now()
	for range 5 {
		must(t, works(t.Context(), node, l.name))
	}
	view, err := servers(t.Context(), node.Client)
	must(t, err)
	left, slack := time.Duration(view[l.name].ExpiresIn)*time.Second, time.Since(begin)+time.Second
	if want := hard(l.want); left > want || left < want-slack {
		t.Errorf("the token is believed to serve %v, want %v", left, want)
	}
	if n := p.Counts().Total; n != 1 && time.Since(begin) < l.want/2 {
		t.Errorf("5 calls cost %d requests, want 1", n)
	}
}

// hard is how long a token of this life serves (protocol.md, Time).
func hard(life time.Duration) time.Duration {
	return life - min(max(life/50, time.Second), time.Minute, life/4)
}

// checkOneSecond sends for three lives: a token that lives a second is renewed
// in every one of them, and still shared by the calls between.
func checkOneSecond(t *testing.T, node *fleet.Sidecar, p *provider) {
	begin, calls := time.Now(), 0
	for ; time.Since(begin) < 3*time.Second; calls++ {
		must(t, works(t.Context(), node, "one-second"))
	}
	// One request per half life, and the burst of three.
	most := int(time.Since(begin)/(500*time.Millisecond)) + 3
	if n := p.Counts().Total; n < 3 || n > most {
		t.Errorf("%d calls in 3 lives cost %d requests, want 3 to %d", calls, n, most)
	}
}

// Rows 22 and 23, and what an orchestrator sees meanwhile.
func TestProvider_AnOutageIsNoticedOnlyWhenTheTokenHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	w.idp.Always(lives(10 * time.Second))
	section := w.section("memory")
	// Without retries an outage is known as soon as the renewal is due.
	once := w.server()
	once["ResilienceConfig"] = map[string]any{"RetryMaxAttempts": 1}
	section["Servers"] = map[string]any{archive: once}
	node := w.sidecar(t, "node", section)
	must(t, works(t.Context(), node, archive))
	granted := w.idp.Requests()[0].At
	w.issuer.Down()

	// The token's hard end comes 1 s before its own.
	sends := 0
	for ; time.Since(granted) < 8500*time.Millisecond; sends++ {
		if err := works(t.Context(), node, archive); err != nil {
			t.Fatalf("%v after the grant: %v", time.Since(granted), err)
		}
	}
	s, err := status(t.Context(), node.Client)
	if err != nil || s.Status != "degraded" || s.Code != http.StatusOK {
		t.Errorf("status while the token held lives on is %+v, %v", s, err)
	}

	eventually(t, func(ctx context.Context) error { return failsFast(ctx, node, http.StatusBadGateway, "NET-002") })
	alive(t, node.Client)
	s, err = status(t.Context(), node.Client)
	if err != nil || s.Status != "unhealthy" || s.Code != http.StatusServiceUnavailable {
		t.Errorf("status without a token is %+v, %v", s, err)
	}
	if c := w.gate.Counts(); c.Refused() > 0 {
		t.Errorf("the gate refused %d of %d sends: an expired token was handed out", c.Refused(), sends)
	}

	must(t, w.issuer.Up())
	eventually(t, func(ctx context.Context) error { return works(ctx, node, archive) })
	becomes(t, node.Client, "healthy", "")
}

// failsFast returns an error unless a request fails at once, with its cause.
func failsFast(ctx context.Context, node *fleet.Sidecar, status int, code string) error {
	begin := time.Now()
	a, err := query(ctx, node, archive)
	if err != nil {
		return err
	}
	if took := time.Since(begin); a.status != status || a.failure().Code != code || took > time.Second {
		return fmt.Errorf("answer after %v is %v, want %d with %s at once", took, a, status, code)
	}
	return nil
}

// Row 23.
func TestProvider_SlownessIsOneCallAndNobodyWithATokenWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	w.idp.Script(idptest.Answer{Delay: 3 * time.Second, Lifetime: 12 * time.Second})
	w.idp.Always(idptest.Answer{Delay: 3 * time.Second})
	node := w.sidecar(t, "node", w.section("memory"))
	results := make(chan error, 20)
	for range cap(results) {
		go func() { results <- works(t.Context(), node, archive) }()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	w.counted(t, 1)

	// From two thirds of its life on, the token is renewed behind the callers.
	slowest := time.Duration(0)
	eventually(t, func(ctx context.Context) error {
		begin := time.Now()
		if err := works(ctx, node, archive); err != nil {
			return fleet.Final(err)
		}
		slowest = max(slowest, time.Since(begin))
		if c := w.idp.Counts(); c.Granted < 2 {
			return fmt.Errorf("not renewed yet: %+v", c)
		}
		return nil
	})
	if slowest > time.Second {
		t.Errorf("a caller with a living token waited %v", slowest)
	}
	w.counted(t, 2)
	if most := w.idp.Counts().MostOpen; most != 1 {
		t.Errorf("%d requests were open at once", most)
	}
}

// Row 24.
func TestProvider_OneThrottledNodeQuietsTheFleet(t *testing.T) {
	t.Parallel()
	const pause = 8 * time.Second
	w := newWorld(t, worldOptions{})
	w.idp.Script(idptest.Answer{Kind: idptest.Throttle, RetryAfter: "8"})
	nodes := w.sidecars(t, 3, nil)
	for _, n := range nodes {
		must(t, failsFast(t.Context(), n, http.StatusServiceUnavailable, "AUTH-003"))
	}
	w.counted(t, 1)
	for _, n := range nodes {
		eventually(t, func(ctx context.Context) error { return works(ctx, n, archive) })
	}
	w.counted(t, 2)
	if r := w.idp.Requests(); r[1].At.Sub(r[0].At) < pause {
		t.Errorf("the fleet asked again after %v, the provider wanted %v", r[1].At.Sub(r[0].At), pause)
	}
}

// Row 25.
func TestProvider_ACertificateOfNobodyKnownIsNeverOverlooked(t *testing.T) {
	t.Parallel()
	ca, err := idptest.NewCA()
	must(t, err)
	wrong, err := ca.Server()
	must(t, err)
	old, err := ca.ExpiredServer()
	must(t, err)
	w := newWorld(t, worldOptions{})
	bundle := w.write(t, "ca.pem", string(ca.PEM()))
	section := w.section("memory")
	stranger := w.provider(t, section, "stranger", idptest.ServerOptions{TLS: wrong}, nil)
	// The CA file is right for both; only the second certificate has expired.
	trusted := map[string]any{"VerifySSL": bundle}
	known := w.provider(t, section, "known", idptest.ServerOptions{TLS: wrong}, trusted)
	expired := w.provider(t, section, "expired", idptest.ServerOptions{TLS: old}, trusted)
	node := w.sidecar(t, "node", section)
	for _, p := range []*provider{stranger, expired} {
		a, err := query(t.Context(), node, p.server)
		must(t, err)
		if a.status != http.StatusBadGateway || a.failure().Code != "NET-003" {
			t.Errorf("%s: %v", p.server, a)
		}
		if n := p.Counts().Total; n != 0 {
			t.Errorf("%s: the client secret was sent %d times", p.server, n)
		}
	}
	must(t, works(t.Context(), node, known.server))
}

// Row 26: what nobody sent may be told to nobody else.
func TestProvider_ARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	elsewhere := idptest.New(idptest.Options{Clients: []idptest.Client{w.client}})
	w.idp.Always(idptest.Answer{Kind: idptest.Redirect, Location: listen(t, elsewhere, idptest.ServerOptions{}).URL + "/token"})
	node := w.sidecar(t, "node", w.section("memory"))
	must(t, failsFast(t.Context(), node, http.StatusBadGateway, "TOK-005"))
	w.counted(t, 1)
	if n := elsewhere.Counts().Total; n != 0 {
		t.Errorf("the client secret was sent to another address %d times", n)
	}
}
