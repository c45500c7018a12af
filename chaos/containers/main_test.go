//go:build chaos

package containers

import (
	"flag"
	"os"
	"testing"
	"time"
)

// requireVar makes a failure of what would be skipped.
const requireVar = "ORTHANC_OAUTH_REQUIRE_REAL"

// The size of a run.
var (
	backendFlag  = flag.String("chaos.backend", "gossip", "gossip, redis or memory")
	faultsFlag   = flag.Int("chaos.faults", 0, "inject at least this many faults; 0: as many as fit into chaos.duration")
	durationFlag = flag.Duration("chaos.duration", 100*time.Second, "begin no storm after this long, unless chaos.faults says how many faults there shall be")
	quietFlag    = flag.Duration("chaos.quiet", 32*time.Second, "how long nothing is done at first, to count what a fleet in quiet costs")
	seedFlag     = flag.Uint64("chaos.seed", 0, "replay this schedule; 0: a new one, which is printed")
	docsFlag     = flag.String("chaos.docs", "", "write the figures of this backend into chaos.md and chaos/ under this folder")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(m.Run())
}

func requireReal() bool { return os.Getenv(requireVar) != "" }
