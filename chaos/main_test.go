package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"orthanc-oauth/internal/fleet"
)

// The variables that name what is tested.
const (
	pluginVar  = "ORTHANC_OAUTH_PLUGIN"
	binaryVar  = "ORTHANC_OAUTH_BINARY"
	requireVar = "ORTHANC_OAUTH_REQUIRE_REAL"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "orthanc-oauth-chaos-")
	if err == nil {
		err = buildProduct(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// orthancHeader is what the plugin is built against.
const orthancHeader = "/usr/include/orthanc/OrthancCPlugin.h"

// buildProduct builds what the environment does not name, and names it there.
func buildProduct(dir string) error {
	if os.Getenv(binaryVar) == "" {
		if err := build(binaryVar, filepath.Join(dir, "orthanc-oauth"), "orthanc-oauth/cmd/orthanc-oauth"); err != nil {
			return err
		}
	}
	_, noHeader := os.Stat(orthancHeader)
	if os.Getenv(pluginVar) != "" || noHeader != nil {
		return nil
	}
	return build(pluginVar, filepath.Join(dir, "libOrthancDicomWebOAuth.so"), "-tags", "orthanc", "-buildmode=c-shared", "orthanc-oauth/plugin")
}

func build(variable, path string, args ...string) error {
	out, err := exec.CommandContext(context.Background(), "go", append([]string{"build", "-trimpath", "-o", path}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", path, err, out)
	}
	return os.Setenv(variable, path)
}

// needOrthanc returns what real Orthancs need, or skips.
func needOrthanc(t *testing.T) fleet.Tools {
	t.Helper()
	tools := fleet.Find()
	missing := tools.Missing(false)
	if os.Getenv(pluginVar) == "" {
		missing = append(missing, "orthanc-dev")
	}
	need(t, missing)
	return tools
}

// needRedis returns what a real Redis needs, or skips.
func needRedis(t *testing.T) fleet.Tools {
	t.Helper()
	tools := fleet.Find()
	if tools.Redis == "" {
		need(t, []string{"redis-server"})
	}
	return tools
}

func need(t *testing.T, missing []string) {
	t.Helper()
	switch {
	case len(missing) == 0:
	case os.Getenv(requireVar) != "":
		t.Fatalf("packages missing: %s", strings.Join(missing, " "))
	default:
		t.Skipf("packages missing: %s", strings.Join(missing, " "))
	}
}
