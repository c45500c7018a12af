package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ErrUnknownServer is what AdminConfig's functions return for a name that is not
// configured.
var ErrUnknownServer = errors.New("unknown server")

// AdminConfig says what the admin routes show. A nil function's route is absent.
type AdminConfig struct {
	Version string

	Status     func(ctx context.Context) Status
	Servers    func(ctx context.Context) []ServerStatus
	Test       func(ctx context.Context, name string) (TestResult, error) // obtain a token
	Invalidate func(ctx context.Context, name string) (TestResult, error) // revoke it, obtain another
	ClearCache func(ctx context.Context) error
	Cluster    func(ctx context.Context) ClusterStatus
	Gatherer   prometheus.Gatherer

	// Authorize guards every route but live. Nil: the host has done so.
	Authorize func(*http.Request) bool
	// Limit, if not nil, reports whether a POST may go on; see NewLimit.
	Limit func(*http.Request) bool

	Metrics *Metrics
	Log     *slog.Logger
}

// The two names the routes go by; the second is the predecessor's, for status
// and metrics only.
const (
	adminRoot = "/dicomweb-oauth/"
	aliasRoot = "/plugins/oauth/"
)

type admin struct {
	cfg     AdminConfig
	metrics http.Handler
}

// route is what one path does.
type route struct {
	endpoint string // the metrics label: bounded, without names
	method   string // GET (then HEAD too) or POST
	open     bool   // without credentials
	serve    func(w http.ResponseWriter, r *http.Request, name string)
}

// NewAdmin returns the handler of the admin routes: /dicomweb-oauth/... and its
// aliases. It answers 404 for every other path.
func NewAdmin(cfg AdminConfig) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics, _ = NewMetrics(nil)
	}
	a := &admin{cfg: cfg}
	if cfg.Gatherer != nil {
		a.metrics = promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
			DisableCompression: true, // Orthanc's callback answers are buffered anyway
			ErrorHandling:      promhttp.ContinueOnError,
		})
	}
	return a
}

// ServeHTTP implements http.Handler.
func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	start, endpoint := time.Now(), "other"
	defer func() {
		if v := recover(); v != nil {
			a.cfg.Log.Error("panic in an admin route", "endpoint", endpoint, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			if rec.status == 0 {
				a.fail(rec, http.StatusInternalServerError, &Failure{Code: codeInternal}, "")
			}
		}
		a.cfg.Metrics.answered(r.Method, endpoint, rec.status, time.Since(start))
	}()
	found, name, ok := a.find(r.URL)
	if !ok {
		a.fail(rec, http.StatusNotFound, &Failure{Code: codeInvalidValue, Message: "no such route"}, "")
		return
	}
	endpoint = found.endpoint
	if status, f := a.admit(rec, r, found); f != nil {
		a.fail(rec, status, f, "")
		return
	}
	if r.Method == http.MethodHead {
		found.serve(headOnly{rec}, r, name)
		return
	}
	found.serve(rec, r, name)
}

// find returns the route of a path and the server named in it.
func (a *admin) find(u *url.URL) (found route, name string, ok bool) {
	path := u.EscapedPath()
	if alias, isAlias := strings.CutPrefix(path, aliasRoot); isAlias {
		found, ok = a.fixed(alias)
		return found, "", ok && (alias == "status" || alias == "metrics")
	}
	rest, ok := strings.CutPrefix(path, adminRoot)
	if !ok {
		return route{}, "", false
	}
	if found, ok = a.fixed(rest); ok {
		return found, "", true
	}
	return a.named(rest)
}

func (a *admin) fixed(rest string) (route, bool) {
	get := func(have bool, serve func(w http.ResponseWriter, r *http.Request, _ string)) (route, bool) {
		return route{endpoint: rest, method: http.MethodGet, serve: serve}, have
	}
	switch rest {
	case "live":
		return route{endpoint: rest, method: http.MethodGet, open: true, serve: a.live}, true
	case "status":
		return get(a.cfg.Status != nil, a.status)
	case "servers":
		return get(a.cfg.Servers != nil, a.servers)
	case "cluster":
		return get(a.cfg.Cluster != nil, a.cluster)
	case "metrics":
		return get(a.metrics != nil, a.exposition)
	case "cache/clear":
		return route{endpoint: "clear", method: http.MethodPost, serve: a.clear}, a.cfg.ClearCache != nil
	}
	return route{}, false
}

// named finds servers/{name}/test and servers/{name}/invalidate.
func (a *admin) named(rest string) (route, string, bool) {
	parts := strings.Split(rest, "/")
	if len(parts) != 3 || parts[0] != "servers" {
		return route{}, "", false
	}
	name, err := url.PathUnescape(parts[1])
	if err != nil || name == "" {
		return route{}, "", false
	}
	act := map[string]func(context.Context, string) (TestResult, error){
		"test": a.cfg.Test, "invalidate": a.cfg.Invalidate,
	}[parts[2]]
	if act == nil {
		return route{}, "", false
	}
	return route{endpoint: parts[2], method: http.MethodPost, serve: a.act(act)}, name, true
}

// admit applies the rules every route shares.
func (a *admin) admit(w http.ResponseWriter, r *http.Request, found route) (int, *Failure) {
	if allow := found.allowed(); !slices.Contains(allow, r.Method) {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return http.StatusMethodNotAllowed, &Failure{Code: codeInvalidValue, Message: "this route answers " + strings.Join(allow, " and ") + " only"}
	}
	if !found.open && a.cfg.Authorize != nil && !a.cfg.Authorize(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="orthanc-oauth"`)
		return http.StatusUnauthorized, &Failure{Code: codeCredentials, Message: "the admin token is required", Hints: []string{"send Authorization: Bearer with the token in AdminTokenFile"}}
	}
	if found.method != http.MethodPost {
		return 0, nil
	}
	if a.cfg.Limit != nil && !a.cfg.Limit(r) {
		return http.StatusTooManyRequests, &Failure{Code: codeUnavailable, Message: "too many requests", Hints: []string{"RateLimitRequests is reached; wait, or raise it"}, RetryAfter: time.Second}
	}
	return checkPost(w, r)
}

func (r route) allowed() []string {
	if r.method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{r.method}
}

func (a *admin) fail(w http.ResponseWriter, status int, f *Failure, server string) {
	writeFailure(w, a.cfg.Version, f, status, server)
}

func (a *admin) ok(w http.ResponseWriter, data any) { writeJSON(w, a.cfg.Version, http.StatusOK, data) }

// live says that the process works, whatever the identity provider does: an
// orchestrator that restarts the fleet over an outage makes it worse.
func (a *admin) live(w http.ResponseWriter, _ *http.Request, _ string) {
	a.ok(w, map[string]string{"status": "alive"})
}

func (a *admin) status(w http.ResponseWriter, r *http.Request, _ string) {
	s := a.cfg.Status(r.Context())
	code := http.StatusOK
	if s.Status == Unhealthy {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, a.cfg.Version, code, s)
}

func (a *admin) servers(w http.ResponseWriter, r *http.Request, _ string) {
	list := a.cfg.Servers(r.Context())
	if list == nil {
		list = []ServerStatus{}
	}
	a.ok(w, map[string][]ServerStatus{"servers": list})
}

func (a *admin) cluster(w http.ResponseWriter, r *http.Request, _ string) {
	a.ok(w, a.cfg.Cluster(r.Context()))
}

func (a *admin) exposition(w http.ResponseWriter, r *http.Request, _ string) {
	a.metrics.ServeHTTP(w, r)
}

func (a *admin) clear(w http.ResponseWriter, r *http.Request, _ string) {
	if err := a.cfg.ClearCache(r.Context()); err != nil {
		a.fail(w, http.StatusServiceUnavailable, tokenFailure(r.Context(), "", err), "")
		return
	}
	a.ok(w, map[string]string{"status": "cleared"})
}

// act serves what obtains a token for a server.
func (a *admin) act(do func(context.Context, string) (TestResult, error)) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, r *http.Request, name string) {
		result, err := do(r.Context(), name)
		switch {
		case errors.Is(err, ErrUnknownServer):
			a.fail(w, http.StatusNotFound, &Failure{Code: codeInvalidValue, Message: "no server of this name is configured", Hints: []string{"GET " + adminRoot + "servers lists them"}}, "")
		case err != nil:
			a.fail(w, http.StatusServiceUnavailable, tokenFailure(r.Context(), name, err), name)
		default:
			a.ok(w, result)
		}
	}
}

// headOnly drops the body where the host's server does not do so itself.
type headOnly struct{ http.ResponseWriter }

// Write implements io.Writer.
func (h headOnly) Write(p []byte) (int, error) { return io.Discard.Write(p) }
