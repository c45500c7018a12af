package backendtest_test

import (
	"testing"

	"go.uber.org/goleak"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/backendtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory_KeepsTheContract(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{
		Bubble: true,
		Fleet: func(t testing.TB, _ int, _ func(int) backend.Resolver) []backend.Backend {
			m := backend.NewMemory(backend.NewClock(nil))
			t.Cleanup(func() { _ = m.Close(t.Context()) })
			return []backend.Backend{m}
		},
	})
}
