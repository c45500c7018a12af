package backend

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// NewErrorCounter returns the counter orthanc_oauth_cache_errors_total with the
// labels backend and reason, registered with reg. It is the operations guide's
// name for everything that goes wrong with a cache, so that a backend and what
// stands in front of it count under it together: whoever comes second gets the
// first one's counter. Reg may be nil.
func NewErrorCounter(reg prometheus.Registerer) (*prometheus.CounterVec, error) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "orthanc_oauth_cache_errors_total",
		Help: "Failed operations of the token cache and values that could not be used, by backend and reason.",
	}, []string{"backend", "reason"})
	if reg == nil {
		return vec, nil
	}
	err := reg.Register(vec)
	if dup, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if held, ok := dup.ExistingCollector.(*prometheus.CounterVec); ok {
			return held, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register cache errors: %w", err)
	}
	return vec, nil
}
