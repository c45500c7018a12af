//go:build chaos

package hostile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binaryVar names what is tested; what it does not name is built first.
const binaryVar = "ORTHANC_OAUTH_BINARY"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "orthanc-oauth-hostile-")
	if err == nil && os.Getenv(binaryVar) == "" {
		err = build(filepath.Join(dir, "orthanc-oauth"))
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

func build(path string) error {
	out, err := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-o", path, "orthanc-oauth/cmd/orthanc-oauth").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", path, err, out)
	}
	return os.Setenv(binaryVar, path)
}
