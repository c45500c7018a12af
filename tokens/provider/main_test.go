package provider

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

// run closes the connections that tests left idle before goleak looks.
type run struct{ *testing.M }

func (r run) Run() int {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return r.M.Run()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(run{m}) }
