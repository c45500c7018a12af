package tokens

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

func TestFailure_SaysWhatItMeansHere(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err   error
		code  provider.Code
		after time.Duration
	}{
		{&backend.Refusal{Code: "AUTH-001", RetryAfter: time.Minute, Err: cause}, provider.CodeCredentials, time.Minute},
		{fmt.Errorf("fill: %w", &backend.Refusal{Code: "NET-003"}), provider.CodeTLS, 0},
		{&backend.Refusal{Code: "<script>", RetryAfter: time.Second}, provider.CodeInternal, time.Second},
		{context.DeadlineExceeded, provider.CodeTimeout, 0},
		{ErrPaced, provider.CodeValidation, 0},
		{backend.ErrClosed, provider.CodeInternal, 0},
		{&Error{Code: provider.CodeScope}, provider.CodeScope, 0},
	} {
		if e := failure("pacs", c.err); e.Code != c.code || e.RetryAfter != c.after {
			t.Errorf("%v: %s after %v", c.err, e.Code, e.RetryAfter)
		}
	}
	e := failure("pacs", &backend.Refusal{Code: "AUTH-001", Err: cause})
	if !errors.Is(e, cause) || e.Error() != `server "pacs": cause` {
		t.Errorf("got %v", e)
	}
}

func TestRefusal_TellsTheFleetWhatTheProviderSaid(t *testing.T) {
	stop := &provider.Error{Code: provider.CodeConnection, Err: context.Canceled}
	if err := refusal(stop); !errors.Is(err, context.Canceled) || errors.As(err, new(*backend.Refusal)) {
		t.Errorf("our own stop became %v", err)
	}
	for _, c := range []struct {
		err  error
		want backend.Refusal
	}{
		{&provider.Error{Code: provider.CodeConnection, Way: true}, backend.Refusal{Code: "NET-002", Way: true}},
		{&provider.Error{Code: provider.CodeUnavailable, RetryAfter: time.Minute}, backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}},
		{context.DeadlineExceeded, backend.Refusal{Code: "NET-001"}},
		{errors.New("other"), backend.Refusal{Code: "TOK-001"}},
	} {
		r, ok := errors.AsType[*backend.Refusal](refusal(c.err))
		if !ok || r.Code != c.want.Code || r.Way != c.want.Way || r.RetryAfter != c.want.RetryAfter || !errors.Is(r, c.err) {
			t.Errorf("%v became %+v", c.err, r)
		}
	}
}

func TestMetrics_KeepBothFamiliesOfNames(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	w.token()
	for name, label := range map[string]string{
		"orthanc_oauth_token_acquisitions_total":  "success",
		"dicomweb_oauth_token_acquisitions_total": "success",
		"orthanc_oauth_cache_misses_total":        "memory",
		"dicomweb_oauth_cache_misses_total":       "pacs",
	} {
		if got := w.metric(name, label); got != 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
	_ = w.source.failed(&backend.Refusal{Code: "AUTH-001"}, noToken)
	w.manager.metrics.acquired("pacs", time.Second, &backend.Refusal{Code: "AUTH-001"})
	if w.metric("dicomweb_oauth_errors_total", "AUTHORIZATION") != 1 || w.metric("orthanc_oauth_token_acquisitions_total", "failure") != 1 {
		t.Error("failure not counted")
	}
	if _, err := New(Config{Backend: w.backend, Registerer: w.reg}); err == nil {
		t.Error("registered twice")
	}
}
