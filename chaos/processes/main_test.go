//go:build chaos

package processes

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The variables that name what is tested, and whether less than the real thing
// will do.
const (
	binaryVar  = "ORTHANC_OAUTH_BINARY"
	requireVar = "ORTHANC_OAUTH_REQUIRE_REAL"
)

// The size of a run.
var (
	faultsFlag   = flag.Int("chaos.faults", 0, "inject this many faults; 0: as many as fit into chaos.duration")
	durationFlag = flag.Duration("chaos.duration", 2*time.Minute, "begin no storm after this long, unless chaos.faults says how many faults there shall be")
	seedFlag     = flag.Uint64("chaos.seed", 0, "replay this schedule; 0: a new one, which is printed")
	nodesFlag    = flag.Int("chaos.nodes", 7, "nodes of the fleet")
	keepFlag     = flag.Bool("chaos.keep", false, "keep the folder with the nodes' logs")
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "orthanc-oauth-processes-")
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
