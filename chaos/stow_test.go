package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// stowMiB is the size of a study. `make bench` takes the 512 MiB of the figure;
// whether memory is flat shows with less.
var stowMiB = flag.Int("chaos.stow", 64, "MiB of the study that is sent through the plugin")

const (
	instanceMiB = 8
	// maxSys is what the Go runtime inside Orthanc may have taken from the
	// system, however much passes through.
	maxSys = 32 << 20
	// stowPatience is for the biggest study on a busy machine.
	stowPatience = 5 * time.Minute
)

func TestPlugin_MemoryStaysFlatWhileStudiesPassThrough(t *testing.T) {
	tools := needOrthanc(t)
	w := newWorld(t, worldOptions{sink: true})
	o := w.orthanc(t, tools, "orthanc", w.section("memory"), nil)
	id := loadBig(t, o, *stowMiB/instanceMiB)
	for _, n := range []int{1, 4} {
		began := time.Now()
		peak := w.stowing(t, o, id, n)
		rate := float64(n**stowMiB) / time.Since(began).Seconds()
		t.Logf("%d x %d MiB: %.0f MiB/s, at most %.1f MiB taken from the system", n, *stowMiB, rate, peak/(1<<20))
		if peak > maxSys {
			t.Errorf("%d at once: %.1f MiB, want at most %d", n, peak/(1<<20), maxSys>>20)
		}
	}
	if got := len(w.idp.Requests()); got != 1 {
		t.Errorf("%d token requests, want 1", got)
	}
}

// loadBig puts a study of n instances into an Orthanc and returns its id there.
func loadBig(t *testing.T, o *fleet.Orthanc, n int) string {
	t.Helper()
	var study struct{ ParentStudy string }
	for i := range n {
		d := idptest.Instance{
			Class: "1.2.840.10008.5.1.4.1.1.7", SOP: fmt.Sprintf("1.2.3.4.%d", i+1), StudyDate: "20260101", Modality: "OT",
			PatientName: "Big^Study", PatientID: "big", Study: "1.2.3.1", Series: "1.2.3.2",
		}
		raw, err := o.Do(t.Context(), http.MethodPost, "/instances", "application/dicom", bytes.NewReader(d.Encode(instanceMiB<<20)))
		must(t, err)
		must(t, fleet.Decode("/instances", raw, &study))
	}
	return study.ParentStudy
}

// stowing sends a study n times at once and returns the most memory that the
// plugin's Go runtime had meanwhile.
func (w *world) stowing(t *testing.T, o *fleet.Orthanc, id string, n int) (peak float64) {
	t.Helper()
	ctx, done := context.WithCancel(t.Context())
	defer done()
	var sends errgroup.Group
	for range n {
		sends.Go(func() error { return bigStow(ctx, o, id) })
	}
	ended := make(chan error, 1)
	go func() { ended <- sends.Wait() }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		sys, err := metric(ctx, o.Client, "go_memstats_sys_bytes")
		must(t, err)
		peak = max(peak, sys)
		select {
		case err := <-ended:
			must(t, err)
			return peak
		case <-tick.C:
		}
	}
}

func bigStow(ctx context.Context, o *fleet.Orthanc, id string) error {
	var job struct{ ID string }
	body := map[string]any{"Resources": []string{id}, "Synchronous": false}
	if err := o.Post(ctx, "/dicom-web/servers/"+archive+"/stow", body, &job); err != nil {
		return err
	}
	return fleet.Eventually(ctx, stowPatience, func(ctx context.Context) error {
		var state struct{ State, ErrorDescription string }
		if err := o.Get(ctx, "/jobs/"+job.ID, &state); err != nil {
			return err
		}
		switch state.State {
		case "Success":
			return nil
		case "Failure":
			return fleet.Final(fmt.Errorf("stow: %s", state.ErrorDescription))
		}
		return fmt.Errorf("stow: still %s", state.State)
	})
}
